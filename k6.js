// Load on POST /api/tasks: arrivals climb to 100,000 a second, stay there, and fall again.
//
//   k6 run k6.js                                         the whole ramp: 80 seconds
//   k6 run -e SCALE=0.003 k6.js                          at most 300 arrivals a second
//   k6 run -e BASE_URL=http://localhost:9000 k6.js       another address
//   k6 run -e SCALE=0.003 -e TIME_SCALE=0.1 k6.js        8 seconds
//
// SCALE multiplies the arrivals and the virtual users, TIME_SCALE the length of each stage.
// Arrivals that could not be sent, because every virtual user still waited for its answer, are
// counted as dropped: where that is not 0, the load was less than the ramp says.

import http from "k6/http";
import { check } from "k6";
import exec from "k6/execution";

const BASE_URL = (__ENV.BASE_URL || "http://localhost:8080").replace(/\/+$/, "");
const SCALE = positive("SCALE");
const TIME_SCALE = positive("TIME_SCALE");

const NAMES = ["generate-report", "send-email", "resize-image", "import-orders", "warm-cache"];
const SHORTEST = 1; // seconds that a task runs
const LONGEST = 5;

const STAGES = [
  { seconds: 10, arrivals: 10000 },
  { seconds: 10, arrivals: 50000 },
  { seconds: 20, arrivals: 100000 },
  { seconds: 30, arrivals: 100000 },
  { seconds: 10, arrivals: 1000 },
];

const THRESHOLDS = {
  http_req_duration: ["p(95)<500", "p(99)<1000"],
  http_req_failed: ["rate<0.01"],
};

const TIMES = ["min", "med", "avg", "p(90)", "p(95)", "p(99)", "max"];

export const options = {
  scenarios: {
    submit: {
      executor: "ramping-arrival-rate",
      startRate: scaled(1000, 1),
      timeUnit: "1s",
      preAllocatedVUs: scaled(5000, 10),
      maxVUs: scaled(10000, 10),
      stages: STAGES.map((stage) => ({
        duration: `${Math.max(1, Math.round(stage.seconds * TIME_SCALE))}s`,
        target: scaled(stage.arrivals, 1),
      })),
    },
  },
  thresholds: THRESHOLDS,
  summaryTrendStats: TIMES,
};

const URL = `${BASE_URL}/api/tasks`;
const PARAMS = { headers: { "Content-Type": "application/json" } };

export default function () {
  const turn = exec.scenario.iterationInTest;
  const name = NAMES[turn % NAMES.length];
  const duration = SHORTEST + (turn % (LONGEST - SHORTEST + 1));
  const answer = http.post(URL, JSON.stringify({ name, duration }), PARAMS);
  const task = object(answer);
  check(answer, {
    "the status is 202": () => answer.status === 202,
    "the body has the four keys": () =>
      Object.keys(task).join() === "task_id,name,status,message",
    "the body is about this task": () =>
      /^task_[0-9]{10}[0-9a-hjkmnp-tv-z]{20}$/.test(task.task_id) && task.name === name,
    "the task is accepted": () =>
      task.status === "accepted" &&
      task.message === `Task will run for ${duration} seconds in background`,
  });
}

export function handleSummary(data) {
  return { stdout: summary(data) };
}

function positive(variable) {
  const value = Number(__ENV[variable] || 1);
  if (!(value > 0 && value < Infinity)) {
    throw new Error(`${variable} must be a number above 0, not ${__ENV[variable]}`);
  }
  return value;
}

function scaled(number, least) {
  return Math.max(least, Math.round(number * SCALE));
}

function object(answer) {
  try {
    return JSON.parse(answer.body) || {}; // answer.json() would lose the order of the keys
  } catch {
    return {}; // no JSON: the checks say so
  }
}

// The summary

function summary(data) {
  const { metrics } = data;
  const sent = values(metrics.http_reqs);
  const duration = values(metrics.http_req_duration);
  const failed = values(metrics.http_req_failed);
  const dropped = values(metrics.dropped_iterations);
  const rows = [
    ["requests", `${count(sent.count)}   ${count(sent.rate)} a second on average`],
    ["failed", `${count(failed.passes)}   ${percent(failed.rate)}`],
    ["dropped arrivals", count(dropped.count)],
    ["virtual users", `${count(values(metrics.vus_max).max)} at most`],
    ["sent, received", `${bytes(metrics.data_sent)}, ${bytes(metrics.data_received)}`],
  ];
  const times = TIMES.map((stat) => [stat, milliseconds(duration[stat])]);
  return [
    "",
    `POST ${URL}, scale ${SCALE}, ${(data.state.testRunDurationMs / 1000).toFixed(1)} s`,
    section("Requests", rows),
    section("Time to answer", times),
    section("Checks", checks(data.root_group.checks)),
    section("Thresholds", thresholds(metrics)),
    "",
  ].join("\n");
}

function section(title, rows) {
  const width = Math.max(0, ...rows.map(([label]) => label.length));
  const lines = rows.map(([label, value]) => `  ${label.padEnd(width)}   ${value}`);
  return ["", title, ...(lines.length ? lines : ["  none"])].join("\n");
}

function checks(all) {
  return all.map(({ name, passes, fails }) => [
    name,
    fails ? `FAILED: ${count(fails)} of ${count(passes + fails)}` : `passed: ${count(passes)}`,
  ]);
}

function thresholds(metrics) {
  return Object.entries(THRESHOLDS).flatMap(([metric, rules]) =>
    rules.map((rule) => [
      `${metric} ${rule}`,
      metrics[metric].thresholds[rule].ok ? "passed" : "FAILED",
    ]),
  );
}

function values(metric) {
  return metric ? metric.values : {}; // a metric without a sample is not there at all
}

function count(number = 0) {
  return String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ",");
}

function percent(rate = 0) {
  return `${(rate * 100).toFixed(2)} %`;
}

function milliseconds(number = 0) {
  return `${number.toFixed(2).padStart(9)} ms`;
}

function bytes(metric) {
  return `${((values(metric).count || 0) / 1e6).toFixed(1)} MB`;
}
