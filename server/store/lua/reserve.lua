-- Numbers that are never given twice, also not after the store was set back to an old copy: each is at least the
-- number of seconds since 2025-01-01. (Its last second is not lost because the caller waits for the disk.)
--
-- KEYS[1] hash   kind -> last number given, decimal; no TTL
-- ARGV[1] kind
-- ARGV[2] how many, at least 1
-- ARGV[3] highest number allowed
-- Returns the first of them, decimal text, or "" when none are left.
local found = redis.call('TYPE', KEYS[1])['ok']
if found ~= 'hash' and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' is a ' .. found .. ', not a hash')
end
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if not string.find(stored, '^%d+$') then
    return redis.error_reply('WRONGTYPE ' .. KEYS[1] .. ' has no number for ' .. ARGV[1])
end
local last = math.max(tonumber(stored), tonumber(redis.call('TIME')[1]) - 1735689600)
if last + tonumber(ARGV[2]) > tonumber(ARGV[3]) then
    return ''
end
redis.call('HDEL', KEYS[1], '') -- a removal first: see prepare.lua
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', last + tonumber(ARGV[2])))
return string.format('%.0f', last + 1)
