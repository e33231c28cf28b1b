-- Takes one dead letter away, once, and no longer counts it as dead.
--
-- KEYS[1] hash   fed: positions and counts by source; no TTL
-- KEYS[2] stream dead letters; no TTL
-- ARGV[1] id of the letter
-- ARGV[2..] the fields that each become one less
-- Returns 1, or 0 when it had gone already.
for index, kind in ipairs({'hash', 'stream'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
if redis.call('XDEL', KEYS[2], ARGV[1]) == 0 then
    return 0
end
for index = 2, #ARGV do
    local stored = redis.call('HGET', KEYS[1], ARGV[index]) or ''
    if string.find(stored, '^[1-9]%d*$') then
        redis.call('HINCRBY', KEYS[1], ARGV[index], -1)
    end
end
return 1
