-- Ends what prepare.lua began: tells every server of a change, or takes the mark back when nothing changed.
--
-- KEYS[1] string number of the last change, decimal; no TTL
-- KEYS[2] zset   commits begun and not yet told: "name:mark" by time in ms
-- KEYS[3] hash   name -> uid of every experiment; no TTL
-- ARGV[1] member "name:mark"
-- ARGV[2] name of the experiment
-- ARGV[3] "1" when it changed, else "0"
-- ARGV[4] uid of the experiment that was deleted, else ""; a newer one of the same name is left alone
-- ARGV[5] channel of changes
-- Returns the number of the last change, decimal text.
for index, kind in ipairs({'string', 'zset', 'hash'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
local version = redis.call('GET', KEYS[1]) or '0'
if not string.find(version, '^%d+$') then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is not a number')
end
redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[4] ~= '' and redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[4] then
    redis.call('HDEL', KEYS[3], ARGV[2])
end
if ARGV[3] == '1' then
    -- At least the time: the number goes on growing after the store was emptied or set back to an old copy.
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    version = string.format('%.0f', math.max(tonumber(version) + 1, now))
    redis.call('SET', KEYS[1], version)
    -- A hint only; a user who may not publish must not undo the number.
    redis.pcall('PUBLISH', ARGV[5], ARGV[2])
end
return version
