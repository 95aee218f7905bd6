-- POSTs the bodies that are given as arguments, in turn. The last line of the output says in JSON
-- what came of it: times in microseconds.

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

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "max": %d, '
         .. '"status": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.status, errors.connect, errors.read, errors.write, errors.timeout
   ))
end
