-- A learner says that it is alive; the one that promises longest counts.
--
-- KEYS[1] string name of that learner; TTL: ARGV[2]
-- ARGV[1] name of the learner
-- ARGV[2] ms until it must have said so again
-- Returns 1.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('DEL', KEYS[1]) -- a removal first: see prepare.lua
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
