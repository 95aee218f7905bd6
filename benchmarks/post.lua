-- POSTs the bodies that are given as arguments, in turn. The last line of the output says in JSON
-- what came of it: times in microseconds.

local ffi = require("ffi")

-- What wrk 4.1 has behind `latency`: how many answers took each number of microseconds.
ffi.cdef([[
   struct stats { uint64_t count, limit, min, max, data[]; };
]])

local requests, turn = {}, 0

function init(bodies)
   local headers = { ["Content-Type"] = "application/json" }
   for number, body in ipairs(bodies) do
      requests[number] = wrk.format("POST", "/api/tasks", headers, body)
   end
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

-- For each answer that took over twice the mean, wrk adds those of the requests that would have been sent
-- meanwhile (stats_correct). Here they are taken away again, from the longest on, so that what is left are
-- the answers that came.
local function answered(summary, latency, connections)
   local stats = ffi.cast("struct stats **", latency)[0]
   local longest = tonumber(stats.max)
   local each = math.floor(summary.requests / connections)
   local counts = {}
   for time = 0, longest do
      counts[time] = tonumber(stats.data[time])
   end
   local interval = each > 0 and math.floor(summary.duration / each) or longest + 1
   for time = longest, 2 * interval, -1 do
      local count = counts[time]
      if count > 0 then
         for added = time - interval, interval + 1, -interval do
            counts[added] = counts[added] - count
         end
      end
   end
   return counts, longest
end

local function percentile(counts, longest, total, percent)
   local wanted, seen = math.ceil(total * percent / 100), 0
   for time = 0, longest do
      seen = seen + counts[time]
      if seen >= wanted then
         return time
      end
   end
end

function done(summary, latency)
   local errors = summary.errors
   local counts, longest = answered(summary, latency, tonumber(os.getenv("CONNECTIONS")))
   local total = 0
   for time = 0, longest do
      total = total + counts[time]
   end
   io.write(string.format(
      '{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "max": %d, '
         .. '"answers": %d, "answers_p50": %d, "answers_p99": %d, '
         .. '"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), latency.max,
      total, percentile(counts, longest, total, 50), percentile(counts, longest, total, 99),
      errors.status, errors.connect, errors.read, errors.write, errors.timeout
   ))
end
