-- Makes the slot of one partition of an experiment ready to be written, or clears it; all or nothing.
-- Only who owns the name in the experiment's own slot may ask: the experiment is created there first, deleted there
-- first. Numbers of experiments grow, so who sleeps through a deletion and a new experiment harms nothing.
--
-- KEYS[1] hash   head; written: uid
-- KEYS[2] stream log; made here, empty, so that appending to what was cleared brings nothing back
-- KEYS[3] hash   bucket -> number of ids; its fields must be the buckets that are given
-- KEYS[4..] every other key of the partition, any types; the lists of the buckets last
-- ARGV[1] "plant" or "clear"
-- ARGV[2] plant: uid of the experiment; clear: uid that the head must have, "" for none
-- ARGV[3..] names of the buckets
-- Returns "ok" (also when it is planted already), or why nothing changed: "other" (clear: another uid), "newer" (plant:
-- an experiment that was made later has it), "buckets" (others than given: list them again).
local plants = ARGV[1] == 'plant'
local uid = ''
if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
    uid = redis.call('HGET', KEYS[1], 'uid') or ''
end
if plants then
    if uid == ARGV[2] and redis.call('TYPE', KEYS[2])['ok'] == 'stream' then
        return 'ok'
    end
    if (tonumber(uid) or 0) > tonumber(ARGV[2]) then
        return 'newer'
    end
elseif uid ~= ARGV[2] then
    return 'other'
end
if redis.call('TYPE', KEYS[3])['ok'] == 'hash' then
    if redis.call('HLEN', KEYS[3]) ~= #ARGV - 2 then
        return 'buckets'
    end
    for index = 3, #ARGV do
        if redis.call('HEXISTS', KEYS[3], ARGV[index]) == 0 then
            return 'buckets'
        end
    end
end

-- From here on nothing can fail.
for _, key in ipairs(KEYS) do
    redis.call('UNLINK', key)
end
if plants then
    redis.call('XADD', KEYS[2], '0-1', '', '')
    redis.call('XDEL', KEYS[2], '0-1')
    redis.call('HSET', KEYS[1], 'uid', ARGV[2])
end
return 'ok'
