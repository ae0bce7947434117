"""What happens on the server in one step. The first line of each has Redis refuse a script before it begins, and never within."""

PUBLISH = """#!lua
-- KEYS: publisher, marks, claims, then streams. ARGV: number, store, upto, after, token, group, how many are settled; of each
-- of these key, id, entries read, and the id before; of each event key, how many arguments, and these.
local number = tonumber(ARGV[1])
if tonumber(redis.call('GET', KEYS[1]) or '0') >= number then return {'again'} end
for i = 4, #KEYS do
  if redis.call('TYPE', KEYS[i]).ok ~= 'stream' then return {'gone', KEYS[i]} end
end
local at = 8
for _ = 1, tonumber(ARGV[7]) do
  local key = KEYS[tonumber(ARGV[at])]
  local owned = redis.call('HGET', KEYS[3], key) == ARGV[5]
  local stands = false
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
    for i = 1, #group, 2 do
      if group[2] == ARGV[6] and group[i] == 'last-delivered-id' then stands = group[i + 1] == ARGV[at + 3] end
    end
  end
  if not owned or not stands then return {'lost', key} end
  at = at + 4
end
if ARGV[2] ~= '' then
  local mark = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or '0')
  if ARGV[4] ~= '' and tonumber(ARGV[4]) ~= mark then return {'fenced', mark} end
  if tonumber(ARGV[3]) <= mark then return {'again'} end
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
end
at = 8
for _ = 1, tonumber(ARGV[7]) do
  redis.call('XGROUP', 'SETID', KEYS[tonumber(ARGV[at])], ARGV[6], ARGV[at + 1], 'ENTRIESREAD', ARGV[at + 2])
  at = at + 4
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local prefixes = {}
while at <= #ARGV do
  local key, last = KEYS[tonumber(ARGV[at])], at + 1 + tonumber(ARGV[at + 1])
  local prefix = prefixes[key]
  local added = redis.pcall('XADD', key, 'NOMKSTREAM', prefix or '0-*', 't', now, unpack(ARGV, at + 2, last))
  if type(added) == 'table' then
    -- Somebody else added with the clock's ids: ours go on after the last of them.
    local info = redis.call('XINFO', 'STREAM', key)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then prefix = string.match(info[i + 1], '%d+') .. '-*' end
    end
    added = redis.call('XADD', key, 'NOMKSTREAM', prefix, 't', now, unpack(ARGV, at + 2, last))
  end
  if prefix then
    local millis, sequence = string.match(added, '(%d+)-(%d+)')
    if tonumber(sequence) >= 1048575 then prefix = string.format('%.0f-*', tonumber(millis) + 1) end
    prefixes[key] = prefix
  end
  at = last + 1
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', 600)
return {'ok'}
"""

ENSURE = """#!lua
-- KEYS: streams, removed, then streams that shall be there. ARGV: what tells a new one from all before. Gives one that is another's.
for i = 3, #KEYS do
  local type = redis.call('TYPE', KEYS[i]).ok
  if type ~= 'stream' and type ~= 'none' then return KEYS[i] end
end
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('XGROUP', 'CREATE', KEYS[i], 'millstream:made', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', KEYS[i], 'millstream:made')
    redis.call('HDEL', KEYS[2], KEYS[i])
    redis.call('HSET', KEYS[1], KEYS[i], ARGV[1])
  else
    redis.call('HSETNX', KEYS[1], KEYS[i], ARGV[1])
  end
end
return false
"""

REPLACE = """#!lua
-- KEYS: hash. ARGV: field, what it has to be (empty: nothing), what it shall be.
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

PLACE = """#!lua
-- KEYS: removed, then streams. ARGV: group, 1 to begin with what is there. Has the group stand where it stands, or begin.
for i = 2, #KEYS do
  local known = false
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
    if group[2] == ARGV[1] then known = true end
  end
  if not known then
    local stream = {}
    local info = redis.call('XINFO', 'STREAM', KEYS[i])
    for n = 1, #info, 2 do stream[info[n]] = info[n + 1] end
    local start, read = '$', stream['entries-added']
    if ARGV[2] == '1' then
      start, read = redis.call('HGET', KEYS[1], KEYS[i]) or '0', read - stream['length']
    end
    redis.call('XGROUP', 'CREATE', KEYS[i], ARGV[1], start, 'ENTRIESREAD', read)
  end
end
return 1
"""

SURVEY = """#!lua
-- KEYS: streams, removed, then streams. ARGV: group or nothing, 1 for the age of what it has not done.
local function named(list)
  local found = {}
  for i = 1, #list, 2 do found[list[i]] = list[i + 1] end
  return found
end
local answer = {}
for i = 3, #KEYS do
  local key = KEYS[i]
  if redis.call('TYPE', key).ok ~= 'stream' then
    answer[i - 2] = {}
  else
    local stream = named(redis.call('XINFO', 'STREAM', key))
    local first = stream['first-entry']
    local place, read, lag, oldest = '', -1, -1, ''
    if ARGV[1] ~= '' then
      for _, list in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        local group = named(list)
        if group['name'] == ARGV[1] then
          place, read, lag = group['last-delivered-id'], group['entries-read'] or -1, group['lag'] or -1
        end
      end
      if place ~= '' and ARGV[2] == '1' then
        local following = redis.call('XRANGE', key, '(' .. place, '+', 'COUNT', 1)[1]
        if following then
          oldest = string.match(following[1], '%d+')
          if following[2][1] == 't' then oldest = following[2][2] end
        end
      end
    end
    answer[i - 2] = {
      stream['last-generated-id'], first and first[1] or '', stream['length'], stream['max-deleted-entry-id'],
      redis.call('HGET', KEYS[2], key) or '', redis.call('HGET', KEYS[1], key) or '', place, read, lag, oldest
    }
  end
end
return answer
"""

SHARE = """#!lua
-- KEYS: groups, members, claims. ARGV: group, token, lease, then streams. Gives how many streams the member should give up, one
-- of its streams in which the group does not stand any more, how many it had all the time, and these and those that it takes now:
-- what is free, up to its share.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {0, ARGV[1], 0} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token = ARGV[2]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[3]), token)
local members = redis.call('ZRANGE', KEYS[2], 0, -1)
local held = {}
for _, member in ipairs(members) do held[member] = 0 end
local free, mine = {}, {}
for i = 4, #ARGV do
  local owner = redis.call('HGET', KEYS[3], ARGV[i])
  if owner == token then table.insert(mine, ARGV[i]) end
  if owner and held[owner] then held[owner] = held[owner] + 1 else table.insert(free, ARGV[i]) end
end
local kept = #mine
local least = math.floor((#ARGV - 3) / #members)
local more = (#ARGV - 3) % #members
local above = {}
for _, member in ipairs(members) do
  if held[member] > least then table.insert(above, member) end
end
while #free > 0 and (#mine < least or (#mine == least and #above < more)) do
  local stream = table.remove(free)
  redis.call('HSET', KEYS[3], stream, token)
  table.insert(mine, stream)
  if #mine > least then table.insert(above, token) end
end
-- Those that have most may keep one more, so that as few as possible move.
table.sort(above, function(a, b)
  local x, y = held[a], held[b]
  if x == y then return a < b end
  return x > y
end)
local share = least
for rank = 1, math.min(more, #above) do
  if above[rank] == token then share = least + 1 end
end
local gone = ''
for _, stream in ipairs(mine) do
  local groups, stands = redis.pcall('XINFO', 'GROUPS', stream), false
  for _, group in ipairs(groups) do stands = stands or group[2] == ARGV[1] end
  if not stands then gone = stream end
end
return {#mine - share, gone, kept, unpack(mine)}
"""

COMMIT = """#!lua
-- KEYS: claims, then streams. ARGV: token, group; of each stream id, entries read, 1 to give it up. Gives those that are not the
-- member's any more.
local lost = {}
for i = 2, #KEYS do
  local key, at = KEYS[i], 3 * i - 3
  if redis.call('HGET', KEYS[1], key) ~= ARGV[1] then
    table.insert(lost, key)
  else
    if ARGV[at] ~= '' then
      local set = redis.pcall('XGROUP', 'SETID', key, ARGV[2], ARGV[at], 'ENTRIESREAD', ARGV[at + 1])
      if type(set) == 'table' and set.err then table.insert(lost, key) end
    end
    if ARGV[at + 2] == '1' then redis.call('HDEL', KEYS[1], key) end
  end
end
return lost
"""

SEEK = """#!lua
-- KEYS: members, claims, then streams. ARGV: group, then of each stream id and entries read. Gives 0 while somebody is there.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
if redis.call('ZCOUNT', KEYS[1], now, '+inf') > 0 then return 0 end
redis.call('DEL', KEYS[2])
for i = 3, #KEYS do
  redis.call('XGROUP', 'SETID', KEYS[i], ARGV[1], ARGV[2 * i - 4], 'ENTRIESREAD', ARGV[2 * i - 3])
end
return 1
"""

PRESENT = """#!lua
-- KEYS: members, claims. Gives the members that are there, and then each stream with its member.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return {redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf'), redis.call('HGETALL', KEYS[2])}
"""

FORGET = """#!lua
-- KEYS: groups, members, claims, then streams. ARGV: group.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
for i = 4, #KEYS do redis.pcall('XGROUP', 'DESTROY', KEYS[i], ARGV[1]) end
return 1
"""

AT_TIME = """#!lua
-- KEYS: stream. ARGV: milliseconds, the last sequence number that our ids have. Gives the id of the first entry that was stored then
-- or later.
local millis = tonumber(ARGV[1])
local function after(sequence)
  local id = string.format('0-%.0f', sequence)
  -- Those that others added under such ids do not say when.
  for _ = 1, 1000 do
    local entry = redis.call('XRANGE', KEYS[1], id, '0-' .. ARGV[2], 'COUNT', 1)[1]
    if not entry then return nil end
    if entry[2][1] == 't' then return tonumber(entry[2][2]) end
    id = '(' .. entry[1]
  end
  return nil
end
local first = redis.call('XRANGE', KEYS[1], '0-1', '0-' .. ARGV[2], 'COUNT', 1)[1]
if first then
  local low = tonumber(string.match(first[1], '-(%d+)'))
  local high = tonumber(string.match(redis.call('XREVRANGE', KEYS[1], '0-' .. ARGV[2], '-', 'COUNT', 1)[1][1], '-(%d+)')) + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local time = after(middle)
    if time and time < millis then low = middle + 1 else high = middle end
  end
  local found = redis.call('XRANGE', KEYS[1], string.format('0-%.0f', low), '0-' .. ARGV[2], 'COUNT', 1)[1]
  if found then return found[1] end
end
local found = redis.call('XRANGE', KEYS[1], string.format('%.0f-0', math.max(millis, 1)), '+', 'COUNT', 1)[1]
return found and found[1] or ''
"""

TRIM = """#!lua
-- KEYS: removed, stream. ARGV: the first id to keep, 1 to heed no group. Gives how many went.
local function parts(id)
  local millis, sequence = string.match(id, '(%d+)-(%d+)')
  return tonumber(millis), tonumber(sequence)
end
local keep = ARGV[1]
if ARGV[2] ~= '1' then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    for i = 1, #group, 2 do
      if group[i] == 'last-delivered-id' then
        local millis, sequence = parts(group[i + 1])
        local kept, from = parts(keep)
        if millis < kept or (millis == kept and sequence + 1 < from) then keep = string.format('%.0f-%.0f', millis, sequence + 1) end
      end
    end
  end
end
local last = redis.call('XREVRANGE', KEYS[2], '(' .. keep, '-', 'COUNT', 1)[1]
if not last then return 0 end
redis.call('HSET', KEYS[1], KEYS[2], last[1])
return redis.call('XTRIM', KEYS[2], 'MINID', '=', keep)
"""

LAST = """#!lua
-- KEYS: stream. ARGV: how many. Gives the id of the first of so many at its end, and reads a few at a time.
local id, left = '+', tonumber(ARGV[1])
while left > 0 do
  local entries = redis.call('XREVRANGE', KEYS[1], id, '-', 'COUNT', math.min(left, 100))
  if #entries == 0 then break end
  left = left - #entries
  id = '(' .. entries[#entries][1]
end
return string.sub(id, 2)
"""
