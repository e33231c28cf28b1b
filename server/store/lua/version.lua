-- The number of the last change. First announces commits whose maker died between commit and announcement.
--
-- KEYS[1] string number of the last change, decimal; no TTL
-- KEYS[2] zset   commits begun and not yet told: "name:mark" by time in ms
-- ARGV[1] ms after which a begun commit can no longer happen
-- ARGV[2] channel of changes
-- Returns the number of the last change, decimal text ("0" before the first).
for index, kind in ipairs({'string', 'zset'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
local version = redis.call('GET', KEYS[1]) or '0'
if not string.find(version, '^%d+$') then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is not a number')
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local left = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - tonumber(ARGV[1])), 'LIMIT', 0, 100)
for _, member in ipairs(left) do
    redis.call('ZREM', KEYS[2], member)
    redis.pcall('PUBLISH', ARGV[2], string.match(member, '^[^:]*'))
end
if #left > 0 then
    version = string.format('%.0f', math.max(tonumber(version) + 1, now))
    redis.call('SET', KEYS[1], version)
end
return version
