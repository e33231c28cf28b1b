-- Publishes the status or the report of an experiment, when the lease is still held.
--
-- KEYS[1] hash   lease: owner, token; expires by itself
-- KEYS[2] string status or report; no TTL
-- ARGV[1] owner
-- ARGV[2] token, decimal
-- ARGV[3] status or report, bytes
-- Returns 1, or 0 when the lease is lost.
local found = redis.call('TYPE', KEYS[1])['ok']
if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. found .. ', not a hash')
end
local lease = redis.call('HMGET', KEYS[1], 'owner', 'token')
if lease[1] ~= ARGV[1] or lease[2] ~= ARGV[2] then
    return 0
end
redis.call('DEL', KEYS[2]) -- a removal first: see prepare.lua
redis.call('SET', KEYS[2], ARGV[3])
return 1
