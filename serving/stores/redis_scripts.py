"""Scripts that run atomically in the Redis server.

Keys of every script: the user's history, the user's rows, the totals, and the
record of the layout. The last argument is this record as it was when the store
was opened. A history is a header followed by events (`records`); bytes 16 to 23
of the header are the number of dropped events, byte 24 tells whether it has
user features.
"""

from __future__ import annotations

from serving.stores.records import Codec

CORRUPT = "MUSECORRUPT"
"""First word of the error for a value that is not a history."""

MOVED = "MUSEMOVED"
"""First word of the error if the layout is not that of the store."""

_COMMON = f"""
local history, rows, totals = KEYS[1], KEYS[2], KEYS[3]

if redis.call('GET', KEYS[4]) ~= ARGV[#ARGV] then
  return redis.error_reply('{MOVED} another layout')
end

-- Number of events, or nil where there is no history.
local function count_of(begin)
  local size = redis.call('STRLEN', history)
  if size == 0 then return nil end
  if size < HEADER or (size - HEADER) % EVENT ~= 0
      or redis.call('GETRANGE', history, 0, 15) ~= begin then
    return -1
  end
  return (size - HEADER) / EVENT
end

local function start_of()
  return struct.unpack('<i8', redis.call('GETRANGE', history, 16, 23))
end

local function keep(count, limit)
  local dropped = count - limit
  local header = redis.call('GETRANGE', history, 0, HEADER - 1)
  local start = struct.unpack('<i8', string.sub(header, 17, 24)) + dropped
  local events = limit == 0 and ''
    or redis.call('GETRANGE', history, -limit * EVENT, -1)
  redis.call('SET', history, string.sub(header, 1, 16)
    .. struct.pack('<i8', start) .. string.sub(header, 25) .. events)
  redis.call('HINCRBY', totals, 'events', 0 - dropped)
end

local function forget_rows()
  if redis.call('DEL', rows) == 1 then
    redis.call('HINCRBY', totals, 'rows', -1)
  end
end

local function corrupt()
  return redis.error_reply('{CORRUPT} not a history')
end
"""

_BODIES = {
    "APPEND": """
-- header of a new user, events, limit, how far beyond it before trimming
local count = count_of(string.sub(ARGV[1], 1, 16))
if count == -1 then return corrupt() end
if count == nil then
  redis.call('SET', history, ARGV[1])
  redis.call('HINCRBY', totals, 'users', 1)
  count = 0
elseif string.byte(ARGV[1], 25) == 1 then
  redis.call('SETRANGE', history, 24, string.sub(ARGV[1], 25))
end
local added = #ARGV[2] / EVENT
if added > 0 then
  redis.call('APPEND', history, ARGV[2])
  redis.call('HINCRBY', totals, 'events', added)
  forget_rows()
end
local limit = tonumber(ARGV[3])
if count + added > limit + tonumber(ARGV[4]) then keep(count + added, limit) end
return count + added
""",
    "TRIM": """
-- first 16 bytes of the header, limit
local count = count_of(ARGV[1])
if count == -1 then return corrupt() end
local limit = tonumber(ARGV[2])
if count and count > limit then keep(count, limit) end
return 1
""",
    "SET_ROWS": """
-- first 16 bytes of the header, number after the newest event, rows
local count = count_of(ARGV[1])
if count == -1 then return corrupt() end
if count == nil or start_of() + count ~= tonumber(ARGV[2]) then return 0 end
if redis.call('EXISTS', rows) == 0 then
  redis.call('HINCRBY', totals, 'rows', 1)
end
redis.call('SET', rows, ARGV[3])
return 1
""",
    "REPLACE": """
-- header, events
local kind = redis.call('TYPE', history).ok
if kind ~= 'string' and kind ~= 'none' then redis.call('DEL', history) end
local count = count_of(string.sub(ARGV[1], 1, 16))
local start = 0
if count == nil then
  redis.call('HINCRBY', totals, 'users', 1)
elseif count >= 0 then
  -- Numbers go on, so that no old state looks like the new one.
  start = start_of() + count
  redis.call('HINCRBY', totals, 'events', 0 - count)
end
redis.call('SET', history, string.sub(ARGV[1], 1, 16)
  .. struct.pack('<i8', start) .. string.sub(ARGV[1], 25) .. ARGV[2])
redis.call('HINCRBY', totals, 'events', #ARGV[2] / EVENT)
forget_rows()
return 1
""",
    "DELETE": """
-- first 16 bytes of the header
if redis.call('EXISTS', history) == 0 then return 0 end
local string = redis.call('TYPE', history).ok == 'string'
local count = string and count_of(ARGV[1]) or -1
if count and count > 0 then
  redis.call('HINCRBY', totals, 'events', 0 - count)
end
redis.call('DEL', history)
redis.call('HINCRBY', totals, 'users', -1)
forget_rows()
return 1
""",
}


def scripts(codec: Codec) -> dict[str, str]:
    """Returns Lua by name of the change, for the records of a layout."""
    sizes = f"local HEADER, EVENT = {codec.header_bytes}, {codec.event_bytes}"
    return {name: sizes + _COMMON + body for name, body in _BODIES.items()}
