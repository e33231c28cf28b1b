-- Says, before a commit or delete of an experiment, that it is about to happen.
-- A crash between the commit and its announcement leaves this mark; version.lua then announces in its place.
--
-- KEYS[1] zset   commits begun and not yet told: "name:mark" by time in ms; entries live for seconds
-- KEYS[2] hash   name -> uid of every experiment; no TTL
-- ARGV[1] member "name:mark", the mark never used before
-- ARGV[2] name of the experiment
-- ARGV[3] its uid, or "" for one that is being deleted. Listed before it exists and again with each commit: a list
--         that was lost, or that a refused create made wrong, heals; names() looks what is really there.
-- Returns the time in ms, decimal text.
for index, kind in ipairs({'zset', 'hash'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))

-- A removal first: a script whose first write needs no memory is let through when memory is full, so that stopping
-- and rolling back still work then.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
return now
