// Checks the example end to end: three real regions with a WAN between them, an app in each, and a
// browser that goes where DNS sends it. Fails with the first thing that is not so.
//
//   npm ci
//   MERIDIAN=/path/to/meridian npm run check      (by default `meridian` from PATH)

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { Resolver } from "node:dns/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { start } from "./app.js";

const MERIDIAN = process.env.MERIDIAN ?? "meridian";
const NAMES = ["one", "two", "three"];
// An address for each region, so that DNS answers can be told apart.
const ADDRESSES = NAMES.map((_, index) => `127.77.0.${index + 1}`);
const ROUND_TRIP_MS = 80;
const PATIENCE_MS = 60_000;
const run = promisify(execFile);

/** Ports that are free on every region's address, for TCP and UDP. */
async function freePorts(count) {
  const held = [];
  const ports = new Set();
  while (ports.size < count) {
    const first = createServer().listen(0, ADDRESSES[0]);
    await once(first, "listening");
    held.push(first);
    const { port } = first.address();
    const sockets = ADDRESSES.map((address) => createSocket("udp4").bind(port, address));
    const rest = ADDRESSES.slice(1).map((address) => createServer().listen(port, address));
    const all = [...sockets, ...rest];
    const free = await Promise.all(all.map((s) => once(s, "listening"))).then(() => true, () => false);
    held.push(...all);
    if (free) ports.add(port);
  }
  for (const socket of held) socket.close(() => {});
  return [...ports];
}

function topology([redis, mesh, admin, dns]) {
  const region = (name, index) => {
    const at = (port) => `'${ADDRESSES[index]}:${port}'`;
    const ports = `redis: ${at(redis)}, mesh: ${at(mesh)}, admin: ${at(admin)}, dns: ${at(dns)}`;
    return `  - {name: ${name}, ordinal: ${index}, ${ports}}`;
  };
  const pairs = [["one", "two"], ["two", "three"], ["one", "three"]];
  return [
    "cluster: sessions",
    "regions:",
    ...NAMES.map(region),
    "dns: {zone: meridian.test, names: [www], default_order: [one, two, three]}",
    "wan:",
    "  round_trips:",
    ...pairs.map((pair) => `    - {between: [${pair}], ms: ${ROUND_TRIP_MS}}`),
    "",
  ].join("\n");
}

/** Tries until it comes true. */
async function until(what, look) {
  const giveUp = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < giveUp, `waited in vain for ${what}`);
  }
}

/** A browser: cookies, and nothing else. `forgets` names a cookie that it does not keep. */
class Browser {
  cookies = new Map();

  constructor(forgets) {
    this.forgets = forgets;
  }

  async fetch(app, path, form) {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const init = { headers: { cookie } };
    if (form) Object.assign(init, { method: "POST", body: new URLSearchParams(form) });
    const answer = await fetch(`http://${app.address}:${app.port}${path}`, init);
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split(/=(.*)/);
      if (name !== this.forgets) this.cookies.set(name, value);
    }
    return { status: answer.status, ...(await answer.json()) };
  }
}

async function check(directory) {
  const ports = await freePorts(4);
  const file = join(directory, "regions.yaml");
  await writeFile(file, topology(ports));
  const place = ["--config", file, "--data-dir", join(directory, "data")];
  const meridian = (...words) => run(MERIDIAN, [...words, ...place]);

  const up = spawn(MERIDIAN, ["up", ...place], { stdio: ["ignore", "pipe", "inherit"] });
  const apps = [];
  try {
    let said = "";
    up.stdout.on("data", (text) => (said += text));
    await Promise.race([
      until("the cluster", async () => (await new Promise(setImmediate), said.includes("Ctrl-C"))),
      once(up, "exit").then(() => assert.fail(`the cluster has ended: ${said}`)),
      once(up, "error").then(([error]) => assert.fail(`${MERIDIAN}: ${error.message}`)),
    ]);
    for (const [index, address] of ADDRESSES.entries()) {
      const redisUrl = `redis://${address}:${ports[0]}`;
      const options = { redisUrl, region: NAMES[index], host: address, port: 0, secret: "check" };
      apps.push({ address, ...(await start({ ...options, waitMs: 5_000 })) });
    }
    await story(apps, meridian, ports[3]);
  } finally {
    await Promise.all(apps.map((app) => app.stop()));
    up.kill("SIGTERM");
    if (up.exitCode === null && up.signalCode === null) await once(up, "exit");
  }
}

async function story([one, two, three], meridian, dnsPort) {
  // Log in in one region and go on in the next, at once.
  let unseen = 0;
  const rounds = 30;
  for (let round = 0; round < rounds; round += 1) {
    const [careful, careless] = [new Browser(), new Browser("meridian")];
    for (const browser of [careful, careless]) {
      const login = await browser.fetch(one, "/login", { user: `ada-${round}` });
      assert.deepEqual(login, { status: 200, region: "one", user: `ada-${round}` });
      const next = await browser.fetch(two, "/");
      assert.equal(next.status, 200);
      if (browser === careful) assert.equal(next.user, `ada-${round}`, "reads its own login");
      else unseen += next.user === null ? 1 : 0;
    }
  }
  console.log(`${rounds} of ${rounds} logins were seen in the next region at once, with the token`);
  console.log(`${rounds - unseen} of ${rounds} were without it (round trip ${ROUND_TRIP_MS} ms)`);

  // A region that cannot have the login says so; without the token it is as if nobody had logged in.
  await meridian("wan", "cut", "one");
  const [ada, ben] = [new Browser(), new Browser("meridian")];
  await ada.fetch(one, "/login", { user: "ada" });
  await ben.fetch(one, "/login", { user: "ben" });
  assert.deepEqual(await ben.fetch(two, "/"), { status: 200, region: "two", user: null });
  const refused = await ada.fetch(two, "/");
  assert.equal(refused.status, 503);
  assert.match(refused.error, /^STALE this region lacks writes of one/);
  assert.equal((await ada.fetch(one, "/")).user, "ada", "at home nothing is missing");
  console.log(`a region that is cut off says: ${refused.error}`);
  const waiting = ada.fetch(two, "/");
  await meridian("wan", "heal");
  const healed = await waiting;
  // It waited for 5 s at most; healing may take longer on a busy machine.
  if (healed.status === 200) assert.equal(healed.user, "ada");
  else assert.equal((await until("the login", () => retry(ada, two))).user, "ada");
  console.log("the cut is healed, and the request that waited is answered");

  // A token that was tampered with is dropped, and the session works as without one.
  const eve = new Browser();
  await eve.fetch(two, "/login", { user: "eve" });
  eve.cookies.set("meridian", `${eve.cookies.get("meridian").slice(0, -1)}!`);
  assert.deepEqual(await eve.fetch(two, "/"), { status: 200, region: "two", user: "eve" });

  // The browser goes where DNS sends it; then that region dies.
  const resolver = new Resolver({ timeout: 1_000, tries: 3 });
  resolver.setServers([`${three.address}:${dnsPort}`]);
  const apps = new Map([one, two, three].map((app) => [app.address, app]));
  const resolve = async () => (await resolver.resolve4("www.meridian.test"))[0];
  const home = apps.get(await until("DNS to name the first region", async () => {
    const address = await resolve().catch(() => undefined);
    return address === one.address && address;
  }));
  const cy = new Browser();
  await cy.fetch(home, "/login", { user: "cy" });
  // The login has reached another region; nothing more will come of the first.
  assert.equal((await cy.fetch(three, "/")).user, "cy");
  await meridian("region", "kill", "one");
  await one.stop();
  const elsewhere = apps.get(await until("DNS to name another region", async () => {
    const address = await resolve().catch(() => undefined);
    return address && address !== one.address && address;
  }));
  const moved = await until("the login", () => retry(cy, elsewhere));
  assert.deepEqual(moved, { status: 200, region: "two", user: "cy" });
  await cy.fetch(elsewhere, "/logout", {});
  assert.equal((await cy.fetch(three, "/")).user, null, "reads its own logout");
  console.log("the region died, DNS named another one, and the session went on there");
}

/** One more try of a request that may be refused. */
async function retry(browser, app) {
  const answer = await browser.fetch(app, "/");
  return answer.status === 200 && answer;
}

const directory = await mkdtemp(join(tmpdir(), "meridian-sessions-"));
try {
  await check(directory);
  console.log("ok");
} finally {
  await rm(directory, { recursive: true, force: true });
}
