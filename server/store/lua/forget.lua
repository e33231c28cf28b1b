-- Removes the trailing ledger of an experiment, all or nothing.
--
-- KEYS[1] hash   head; read: uid; the ledger's sequence and sizes are removed
-- KEYS[2] hash   bucket -> number of ids; its fields must be the buckets that are given
-- KEYS[3..] every other key of the ledger, any types; the lists of the buckets last
-- ARGV[1] uid of the experiment
-- ARGV[2] what the head's fields of the ledger begin with, never ""
-- ARGV[3..] names of the buckets
-- Returns "ok", or why nothing changed: "uid" (no such experiment), "buckets" (others than given: list them again).
if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' or redis.call('HGET', KEYS[1], 'uid') ~= ARGV[1] or ARGV[2] == '' then
    return 'uid'
end
if redis.call('TYPE', KEYS[2])['ok'] == 'hash' then
    if redis.call('HLEN', KEYS[2]) ~= #ARGV - 2 then
        return 'buckets'
    end
    for index = 3, #ARGV do
        if redis.call('HEXISTS', KEYS[2], ARGV[index]) == 0 then
            return 'buckets'
        end
    end
end
redis.call('HDEL', KEYS[1], ARGV[2] .. 'sequence', ARGV[2] .. 'sizes')
for index = 2, #KEYS do
    redis.call('UNLINK', KEYS[index])
end
return 'ok'
