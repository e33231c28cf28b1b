-- The right to be the one writer and judge of an experiment.
--
-- KEYS[1] hash   head; read and written: fence (last token given, decimal); no TTL
-- KEYS[2] hash   lease: owner, token; TTL: ARGV[3]
-- ARGV[1] "acquire" (new, or renewed by its owner) or "release"
-- ARGV[2] owner
-- ARGV[3] acquire: ms until it ends by itself; release: the token
-- Returns acquire: the token, decimal text, or "" while another holds it and for an experiment that does not exist.
-- release: "1" when it was held, else "".
for index, key in ipairs(KEYS) do
    local found = redis.call('TYPE', key)['ok']
    if found ~= 'hash' and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a hash')
    end
end
local lease = redis.call('HMGET', KEYS[2], 'owner', 'token')
if ARGV[1] == 'release' then
    if lease[1] ~= ARGV[2] or lease[2] ~= ARGV[3] then
        return ''
    end
    redis.call('DEL', KEYS[2])
    return '1'
end
if redis.call('HEXISTS', KEYS[1], 'generation') == 0 then
    return ''
end
if lease[1] == ARGV[2] and lease[2] then
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return lease[2]
end
if lease[1] then
    return ''
end
-- At least the time: tokens go on growing when an experiment is deleted and made again, or set back to an old copy.
-- In microseconds, as all of that may happen within a millisecond.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') or 0
local token = string.format('%.0f', math.max(last + 1, now))
redis.call('DEL', KEYS[2]) -- a removal first: see prepare.lua
redis.call('HSET', KEYS[1], 'fence', token)
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'token', token)
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return token
