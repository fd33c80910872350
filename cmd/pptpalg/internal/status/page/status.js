"use strict";

const interval = 2000; // milliseconds between two looks
const timeout = 8000; // for an answer
const limit = 100; // calls on a page
const pastInterval = 20000; // milliseconds between two drawings of the past
const tooOld = 5000; // the age of what is shown from which it is told

const $ = (id) => document.getElementById(id);
const view = { sort: "age", filter: "", offset: 0 };
let heard = null; // when the daemon answered last, by the browser's clock
let timer = 0;
let drawn = 0; // when the past was drawn last, by the browser's clock
let asking = null; // the AbortController of the look under way

// text sets what an element says, if that is new: a selection in it stays.
function text(element, said) {
  if (element.textContent !== said) element.textContent = said;
}

function short(n, unit) {
  if (n < 1000) return `${n} ${unit}`;
  for (const prefix of ["k", "M", "G", "T"]) {
    n /= 1000;
    if (n < 999.5) return `${n < 9.995 ? n.toFixed(2) : n < 99.95 ? n.toFixed(1) : n.toFixed(0)} ${prefix}${unit}`;
  }
  return `${n.toFixed(0)} T${unit}`;
}

const whole = (n) => n.toLocaleString("en-US");
const percent = (r) => r > 0 && r < 0.0001 ? "< 0.01 %" : `${(r * 100).toFixed(r > 0 && r < 0.1 ? 2 : 0)} %`;
const plural = (n, one, many) => `${whole(n)} ${n === 1 ? one : many}`;

function span(milliseconds) {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "m"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

const clock = (date) => date.toLocaleTimeString("en-GB");

// ask fetches JSON. The error of what is no answer says so in words.
async function ask(path, signal) {
  const response = await fetch(path, { signal, cache: "no-store", credentials: "same-origin" });
  if (!response.ok) throw new Error(`it answered ${response.status}: ${(await response.text()).trim().slice(0, 300)}`);
  return response.json();
}

function showStatus(status) {
  const health = $("health");
  const word = !status.healthy ? "Stuck" : !status.ready ? "Not ready" : status.problems.length > 0 ? "Working, with problems" : "Working";
  text(health, word);
  health.className = `pill ${!status.ready ? "bad" : status.problems.length > 0 ? "warn" : "good"}`;
  showList($("problems"), status.problems);
  $("problems").hidden = status.problems.length === 0;
  text($("version"), status.version);
  text($("datapath"), { kernel: "the kernel", queue: "the daemon" }[status.data_path] ?? status.data_path);
  showFacts(status, new Date(status.now));
  if (status.sums) showSums(status.sums, new Date(status.now));
  document.title = `${word === "Working" ? "" : `${word}: `}${status.sums ? plural(status.sums.calls.all, "call", "calls") : "?"} – pptpalg`;
}

// showFacts says who loads the rules, and what else there is.
function showFacts(status, now) {
  const { by, loaded, since } = status.rules;
  const whose = by === "none" ? "by the administrator" : `by ${{ nft: "nftables" }[by] ?? by}`;
  text($("rules"), loaded ? `loaded ${whose}${since ? `, for ${span(now - new Date(since))}` : ""}` : "missing");
  const fast = status.fast_path;
  fact("fastpath", fast.mode === "off" ? "" : `XDP ${fast.interfaces_xdp}, tc ${fast.interfaces_tc}, missing ${fast.interfaces_missing}`);
  fact("cluster", status.cluster ? `${status.cluster.name}: ${plural(status.cluster.gateways, "gateway", "gateways")}, ${status.cluster.state.split(":")[0]}` : ""); // the rest is among the problems
  const error = status.last_error;
  fact("last-error", error ? `${span(now - new Date(error.time))} ago: ${error.text}` : "");
}

// fact shows one of those that need not be there.
function fact(name, said) {
  text($(name), said);
  $(name).parentElement.hidden = said === "";
}

function showList(list, lines) {
  while (list.children.length > lines.length) list.lastChild.remove();
  while (list.children.length < lines.length) list.append(document.createElement("li"));
  lines.forEach((line, i) => text(list.children[i], line));
}

function showSums(sums, now) {
  const calls = sums.calls;
  const started = new Date(sums.started);
  text($("uptime"), started.getTime() > 0 ? span(now - started) : "–");
  const age = now - new Date(sums.as_of);
  text($("asof"), age > tooOld ? `${span(age)} ago` : clock(new Date(sums.as_of)));
  text($("calls"), whole(calls.all));
  const count = { ...calls, established: calls.established - calls.one_way - calls.silent };
  const states = ["established", "answered", "requested", "clearing"].filter((s) => count[s] > 0);
  const bad = [["one_way", "one-way"], ["silent", "silent"]].filter(([key]) => calls[key] > 0).map(([key, word]) => `${whole(calls[key])} ${word}`);
  text($("calls-sub"), [...bad, ...states.map((s) => `${whole(count[s])} ${s}`)].join(", ") || "none now");
  text($("rate"), sums.rate ? short(sums.rate.bytes, "B/s") : "–");
  text($("rate-sub"), rateWords(sums));
  text($("space"), percent(sums.call_id_space_used_ratio));
  $("space-meter").value = sums.call_id_space_used_ratio;
  text($("space-sub"), `${whole(sums.call_ids_resting)} resting`);
  text($("refused"), whole(sums.calls_refused_total));
  text($("refused-sub"), `of ${plural(sums.calls_opened_total, "call", "calls")} since the start`);
  text($("unedited"), whole(sums.requests_unedited_total));
  text($("untouched"), whole(sums.control_connections_untouched));
  text($("untouched-sub"), `not translated, or not PPTP; ${whole(sums.control_connections)} edited`);
  $("notes").hidden = sums.notes.length === 0;
  showList($("notes-list"), sums.notes.map((n) => `${whole(n.count)} ${n.text}`));
}

function rateWords(sums) {
  if (sums.rate) return `${whole(sums.rate.packets)} packets/s`;
  if (sums.calls.all === 0) return "no calls";
  if (sums.calls.counted === 0) return "not counted: net.netfilter.nf_conntrack_acct is 0";
  return "available after the next sample";
}

function showCalls(list) {
  const now = new Date(list.now);
  const rows = $("rows");
  const old = new Map();
  for (const row of rows.children) old.set(row.dataset.number, row);
  let place = rows.firstElementChild;
  for (const call of list.calls) {
    const number = String(call.number);
    let row = old.get(number);
    old.delete(number);
    if (!row) {
      row = $("row").content.firstElementChild.cloneNode(true);
      row.dataset.number = number;
    }
    showCall(row, call, now);
    if (row === place) place = place.nextElementSibling;
    else rows.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
  showCount(list);
}

const id = (n) => (n === null ? "–" : String(n));

function showCall(row, call, now) {
  const [client, server] = call.client === "pns" ? [call.pns, call.pac] : [call.pac, call.pns];
  const [toClient, toServer] = call.client === "pns" ? [call.to_pns, call.to_pac] : [call.to_pac, call.to_pns];
  const [clientRate, serverRate] = call.client === "pns" ? [call.to_pns_rate, call.to_pac_rate] : [call.to_pac_rate, call.to_pns_rate];
  const cells = row.children;
  text(cells[0], client.address);
  text(cells[1], id(client.call_id));
  text(cells[2].children[0], client.public_address);
  text(cells[2].children[2], id(client.public_call_id));
  cells[2].classList.toggle("changed", client.call_id !== client.public_call_id);
  text(cells[3].children[0], server.address);
  const hidden = server.address !== server.public_address || server.call_id !== server.public_call_id;
  text(cells[3].children[1], hidden ? `seen as ${server.public_address} / ${id(server.public_call_id)}` : "");
  text(cells[4], id(server.call_id));
  showState(cells[5], call, now);
  text(cells[6], span(now - new Date(call.since)));
  cells[6].title = `since ${call.since}`;
  showWay(cells[7], toClient, clientRate, call.state);
  showWay(cells[8], toServer, serverRate, call.state);
}

// showState says of a call that does not carry so, instead of "established".
function showState(cell, call, now) {
  const [badge, why, button] = cell.children;
  const client = (call.client === "pns" ? call.pns : call.pac).address;
  button.dataset.client = client;
  button.setAttribute("aria-label", `Explain the calls of ${client}`);
  const since = call.none_since ? ` for ${span(now - new Date(call.none_since))}` : "";
  const from = call.none_to === call.client ? "server" : "client";
  const words = { one_way: ["one-way", `nothing from the ${from}${since}`], silent: ["silent", `nothing from either end${since}`] }[call.carries];
  text(badge, words ? words[0] : call.state);
  badge.className = `state ${words ? "bad" : call.state}`;
  text(why, words ? words[1] : "");
}

function showWay(cell, carried, rate, state) {
  text(cell.children[0], rate ? `${short(rate.bytes, "B/s")} · ${whole(rate.packets)} p/s` : "–");
  const none = state === "established" ? "not counted" : "";
  text(cell.children[1], carried ? `${short(carried.bytes, "B")} in ${plural(carried.packets, "packet", "packets")}` : none);
}

function showCount(list) {
  const shown = list.calls.length;
  const of = view.filter ? `${whole(list.matching)} of ${plural(list.all, "call", "calls")} match` : plural(list.all, "call", "calls");
  const range = shown > 0 && shown < list.matching ? `, ${whole(list.offset + 1)} to ${whole(list.offset + shown)} shown` : "";
  text($("count"), of + range);
  $("empty").hidden = shown > 0;
  document.querySelector("table").hidden = shown === 0;
  text($("empty"), list.all === 0 ? "There are no calls now." : "No call matches the filter.");
  $("pager").hidden = list.matching <= limit && list.offset === 0;
  $("previous").disabled = list.offset === 0;
  $("next").disabled = list.offset + limit >= list.matching;
  text($("page"), `Page ${whole(Math.floor(list.offset / limit) + 1)} of ${whole(Math.max(1, Math.ceil(list.matching / limit)))}`);
  if (shown === 0 && list.matching > 0) turn(-view.offset); // the page is gone
}

// explain shows why the calls of a client do not work, or that they do.
async function explain(client) {
  const box = $("why");
  text($("why-head"), client);
  text($("why-wait"), "Asking the daemon…");
  $("why-wait").hidden = false;
  $("why-causes").replaceChildren();
  text($("why-evidence"), "");
  $("why-evidence").hidden = true;
  box.dataset.client = client;
  box.showModal();
  try {
    const report = await ask(`api/explain?${new URLSearchParams({ client })}`, AbortSignal.timeout(timeout));
    if (box.dataset.client !== client) return; // another one was asked for meanwhile
    for (const cause of report.causes) {
      const [item, advice] = [document.createElement("li"), document.createElement("p")];
      item.textContent = cause.text;
      advice.textContent = `→ ${cause.advice}`;
      item.append(advice);
      $("why-causes").append(item);
    }
    text($("why-evidence"), report.evidence);
    $("why-evidence").hidden = false;
    $("why-wait").hidden = true;
  } catch (error) {
    text($("why-wait"), `No explanation: ${error.message}`);
  }
}

// line draws one value of the samples, the largest value at the top.
function line(samples, from, span, most, value, kind) {
  const drawn = document.createElementNS($("past-calls").namespaceURI, "polyline");
  const points = samples.map((s) => {
    const x = 300 * (new Date(s.time) - from) / span;
    const y = 58 - 56 * value(s) / most;
    return `${x.toFixed(1)},${y.toFixed(1)}`;
  });
  drawn.setAttribute("points", points.join(" "));
  drawn.setAttribute("class", kind);
  return drawn;
}

// showPast draws the last hour.
function showPast(past) {
  const { samples } = past;
  const span = past.span_seconds * 1000;
  const from = new Date(past.now) - span;
  const few = samples.length < 2;
  const top = (value) => Math.max(1, ...samples.map(value));
  const bad = (s) => s.one_way + s.silent;
  const calls = top((s) => s.calls);
  const rate = Math.max(top((s) => s.to_clients_bytes_per_second), top((s) => s.to_servers_bytes_per_second));
  const lines = [line(samples, from, span, calls, (s) => s.calls, "first")];
  if (samples.some((s) => bad(s) > 0)) lines.push(line(samples, from, span, calls, bad, "bad"));
  $("past-calls").replaceChildren(...(few ? [] : lines));
  $("past-traffic").replaceChildren(...(few ? [] : [
    line(samples, from, span, rate, (s) => s.to_clients_bytes_per_second, "first"),
    line(samples, from, span, rate, (s) => s.to_servers_bytes_per_second, "second"),
  ]));
  const soon = "available after the first minute";
  const worst = Math.max(0, ...samples.map(bad));
  text($("past-calls-sub"), few ? soon : `at most ${whole(Math.max(...samples.map((s) => s.calls)))}${worst > 0 ? `; at most ${whole(worst)} one-way or silent (red)` : ""}`);
  text($("past-traffic-sub"), few ? soon : `at most ${short(Math.round(rate === 1 ? 0 : rate), "B/s")}; to clients, and to servers (dashed)`);
}

// showGone says that what is shown is old, and why.
function showGone(error) {
  const since = heard ? ` since ${clock(heard)}. The page shows the state of that time` : "";
  const why = error instanceof TypeError ? "it cannot be reached" : error.message;
  text($("gone"), `No answer from the daemon${since} (${why}). Established calls go on if the kernel translates their GRE.`);
  $("gone").hidden = false;
  document.body.classList.add("stale");
  text($("health"), "No answer");
  $("health").className = "pill bad";
  document.title = "No answer – pptpalg";
}

function showBack() {
  heard = new Date();
  $("gone").hidden = true;
  document.body.classList.remove("stale");
}

// look asks for all that is shown, and shows it. A look that is under way is given up.
async function look() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  const late = setTimeout(() => mine.abort(new Error("it did not answer in time")), timeout);
  const query = new URLSearchParams({ sort: view.sort, filter: view.filter, offset: view.offset, limit });
  try {
    const status = await ask("api/status", mine.signal);
    const calls = status.sums ? await ask(`api/calls?${query}`, mine.signal) : null;
    showBack();
    showStatus(status);
    if (calls) showCalls(calls);
    if (Date.now() - drawn >= pastInterval) {
      showPast(await ask("api/history", mine.signal));
      drawn = Date.now();
    }
  } catch (error) {
    if (asking === mine) showGone(error);
  }
  clearTimeout(late);
  if (asking === mine && !document.hidden) timer = setTimeout(look, interval);
}

function turn(by) {
  view.offset = Math.max(0, view.offset + by);
  look();
}

// arrange changes the order, or the filter, and remembers both in the page's address.
function arrange(change) {
  Object.assign(view, change, { offset: 0 });
  history.replaceState(null, "", `#${new URLSearchParams({ sort: view.sort, filter: view.filter })}`);
  showOrder();
  look();
}

function showOrder() {
  const by = view.sort.replace("-", "");
  for (const head of document.querySelectorAll("th")) {
    if (head.dataset.sort !== by) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", (head.dataset.most === "first") === view.sort.startsWith("-") ? "ascending" : "descending");
  }
  $("sort").value = by;
  $("reverse").setAttribute("aria-pressed", String(view.sort !== by));
}

function sortBy(key) {
  arrange({ sort: view.sort === key ? `-${key}` : key });
}

function begin() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const keys = [...$("sort").options].map((o) => o.value);
  if (keys.includes((kept.get("sort") ?? "").replace("-", ""))) view.sort = kept.get("sort");
  $("filter").value = view.filter = (kept.get("filter") ?? "").slice(0, 200);
  $("filter").addEventListener("input", () => arrange({ filter: $("filter").value.trim() }));
  $("sort").addEventListener("change", () => arrange({ sort: $("sort").value }));
  $("reverse").addEventListener("click", () => arrange({ sort: view.sort.startsWith("-") ? view.sort.slice(1) : `-${view.sort}` }));
  for (const head of document.querySelectorAll("th")) head.firstElementChild.addEventListener("click", () => sortBy(head.dataset.sort));
  $("rows").addEventListener("click", (event) => {
    const button = event.target.closest(".why");
    if (button) explain(button.dataset.client);
  });
  $("previous").addEventListener("click", () => turn(-limit));
  $("next").addEventListener("click", () => turn(limit));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) look();
    else clearTimeout(timer);
  });
  showOrder();
  look();
}

begin();
