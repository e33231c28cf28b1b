-- Appends exposures of one issuer to an experiment's log, when the log has all that come before them.
-- How far the log has them lies in its own slot: after a failover that loses writes, both went back together, and the
-- issuer is told from where to send again.
--
-- KEYS[1] hash   issuer -> number of its next exposure in the log, decimal; no TTL
-- KEYS[2] stream log
-- KEYS[3] hash   head; read: uid
-- ARGV[1] uid of the experiment
-- ARGV[2] issuer
-- ARGV[3] number of the first exposure
-- ARGV[4] number after the last one
-- ARGV[5] "1": take them although some before them are missing
-- ARGV[6] kind of the entry
-- ARGV[7] payload
-- Returns the number up to which the log has them now, decimal text: below ARGV[3] nothing was taken, as some before
-- are missing. "" when there is no such experiment.
for index, kind in ipairs({'hash', 'stream', 'hash'}) do
    local found = redis.call('TYPE', KEYS[index])['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. KEYS[index] .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
if redis.call('HGET', KEYS[3], 'uid') ~= ARGV[1] or redis.call('EXISTS', KEYS[2]) == 0 then
    return ''
end
local at = redis.call('HGET', KEYS[1], ARGV[2]) or '0'
if not string.find(at, '^%d+$') then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' has no number for issuer ' .. ARGV[2])
end
if tonumber(at) >= tonumber(ARGV[4]) or (tonumber(at) < tonumber(ARGV[3]) and ARGV[5] ~= '1') then
    return at
end
redis.call('XADD', KEYS[2], '*', ARGV[6], ARGV[7])
redis.call('HSET', KEYS[1], ARGV[2], ARGV[4])
return ARGV[4]
