-- What one fold of an experiment's log changes, all or nothing. Values are whole; nothing is added to here, so nothing
-- can overflow, and a fold that was taken but whose reply was lost is refused when it comes again.
--
-- KEYS[1]  hash   head; read: uid, sequence, sizes; written: sequence, sizes (the trailing ledger has its own); no TTL
-- KEYS[2]  stream log; trimmed; no TTL
-- KEYS[3]  zset   allocations that are no periods yet, by number; no TTL
-- KEYS[4]  string writer: small numbers, packed; no TTL
-- KEYS[5]  hash   number -> period, packed; no TTL
-- KEYS[6]  hash   page key -> marks or values, packed; no TTL
-- KEYS[7]  hash   issuer -> next exposure; no TTL
-- KEYS[8]  hash   bucket -> number of ids in its list, decimal; no TTL
-- KEYS[9]  string accumulators of the guardrails, packed; no TTL
-- KEYS[10..] the lists of the buckets that get a chunk, then those of dropped buckets (no TTL), then the lists of the
--            replies (TTL: ARGV[8])
-- ARGV[1]  uid of the experiment
-- ARGV[2]  expected sequence, "0" before the first fold
-- ARGV[3]  new sequence
-- ARGV[4]  writer, packed
-- ARGV[5]  accumulators, packed, or "" to leave them
-- ARGV[6]  id of the first log entry to keep, or "" to trim nothing
-- ARGV[7]  number up to which allocations are dropped
-- ARGV[8]  TTL of a reply, s
-- ARGV[9]  what the head's fields of this ledger begin with: "", or "base_" for the trailing one
-- ARGV[10..17] how many: periods to set, to drop; pages to set, to drop; issuers; chunks; dropped buckets; replies
-- ARGV[18..] those, in this order: number, period | number | key, page | key | issuer, next | bucket, chunk,
--            number of its ids | bucket | outcome bytes. A bucket that is dropped and has a chunk is replaced by that.
-- Returns "ok", or why nothing changed: "gone" (no such experiment), "uid", "sequence", "torn" (a part is missing).
local fixed = {'hash', 'stream', 'zset', 'string', 'hash', 'hash', 'hash', 'hash', 'string'}
for index, key in ipairs(KEYS) do
    local kind = fixed[index] or 'list'
    local found = redis.call('TYPE', key)['ok']
    if found ~= kind and found ~= 'none' then
        return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ', not a ' .. kind)
    end
end
local sequence_field, sizes_field = ARGV[9] .. 'sequence', ARGV[9] .. 'sizes'
local head = redis.call('HMGET', KEYS[1], 'uid', sequence_field, sizes_field)
if not head[1] then
    return 'gone'
end
if head[1] ~= ARGV[1] then
    return 'uid'
end
if (head[2] or '0') ~= ARGV[2] then
    return 'sequence'
end
-- How much the ledger holds; the head remembers it, so that a part which was lost is noticed.
local function sizes()
    return table.concat({
        redis.call('EXISTS', KEYS[4]), redis.call('HLEN', KEYS[5]), redis.call('HLEN', KEYS[6]),
        redis.call('HLEN', KEYS[7]), redis.call('HLEN', KEYS[8]), redis.call('EXISTS', KEYS[9]),
    }, ' ')
end
if (head[3] or '0 0 0 0 0 0') ~= sizes() then
    return 'torn'
end
local count = {}
for index = 10, 17 do
    count[index - 9] = tonumber(ARGV[index])
end
local chunks_at = 18 + 2 * count[1] + count[2] + 2 * count[3] + count[4] + 2 * count[5]
local dropped_at = chunks_at + 3 * count[6]
local dropped = {}
for index = 0, count[7] - 1 do
    dropped[ARGV[dropped_at + index]] = true
end
local totals = {}
for index = 0, count[6] - 1 do
    local bucket = ARGV[chunks_at + 3 * index]
    local stored = not dropped[bucket] and redis.call('HGET', KEYS[8], bucket) or '0'
    if not string.find(stored, '^%d+$') then
        return redis.error_reply('WRONGTYPE ' .. KEYS[8] .. ' has no number for bucket ' .. bucket)
    end
    totals[bucket] = string.format('%.0f', tonumber(stored) + tonumber(ARGV[chunks_at + 3 * index + 2]))
end

-- From here on nothing can fail. A removal first: a script whose first write needs no memory is let through when
-- memory is full, and a fold frees more (the log it trims) than it takes.
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[7])
if ARGV[6] ~= '' then
    redis.call('XTRIM', KEYS[2], 'MINID', ARGV[6])
end
local at = 18
for _ = 1, count[1] do
    redis.call('HSET', KEYS[5], ARGV[at], ARGV[at + 1])
    at = at + 2
end
for _ = 1, count[2] do
    redis.call('HDEL', KEYS[5], ARGV[at])
    at = at + 1
end
for _ = 1, count[3] do
    redis.call('HSET', KEYS[6], ARGV[at], ARGV[at + 1])
    at = at + 2
end
for _ = 1, count[4] do
    redis.call('HDEL', KEYS[6], ARGV[at])
    at = at + 1
end
for _ = 1, count[5] do
    redis.call('HSET', KEYS[7], ARGV[at], ARGV[at + 1])
    at = at + 2
end
local list = 10
for index = 0, count[7] - 1 do
    redis.call('HDEL', KEYS[8], ARGV[dropped_at + index])
    redis.call('DEL', KEYS[list + count[6] + index])
end
for _ = 1, count[6] do
    redis.call('HSET', KEYS[8], ARGV[at], totals[ARGV[at]])
    redis.call('RPUSH', KEYS[list], ARGV[at + 1])
    at, list = at + 3, list + 1
end
at, list = at + count[7], list + count[7]
if ARGV[5] ~= '' then
    redis.call('SET', KEYS[9], ARGV[5])
end
redis.call('SET', KEYS[4], ARGV[4])
redis.call('HSET', KEYS[1], sequence_field, ARGV[3], sizes_field, sizes())
for _ = 1, count[8] do
    redis.call('RPUSH', KEYS[list], ARGV[at])
    redis.call('EXPIRE', KEYS[list], ARGV[8])
    at, list = at + 1, list + 1
end
return 'ok'
