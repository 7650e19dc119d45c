// Sessions of express-session that follow their user from region to region.
//
// Every answer carries a Meridian session token in a cookie beside the session's own: it covers what
// this user's requests have written and read. A request that lands in another region first waits
// there until the region has that, and only then is its session looked up. If the region cannot
// have it in time, the request is refused rather than answered as if nobody had logged in.
//
// The three middlewares belong together and in this order:
//   1. wait for the token that the request brings;
//   2. express-session, with a store in Meridian;
//   3. before the answer leaves, save what has changed and put the new token into the cookie.

import { AsyncLocalStorage } from "node:async_hooks";
import session from "express-session";
import { createClient, createClientPool } from "redis";

// Which token the present request holds; the store is not told whose session it is asked for.
const request = new AsyncLocalStorage();

/** A session store in one region of Meridian. */
export class MeridianStore extends session.Store {
  #commands;
  #waiters;
  #prefix;
  #ttlSeconds;

  /**
   * @param {object} options `url` of the region's Redis port; `prefix` of the keys; `ttlSeconds` of a
   *   session that is not used; `waiters`, how many requests may wait for their token at once.
   */
  constructor({ url, prefix = "session:", ttlSeconds = 86_400, waiters = 8 }) {
    super();
    this.#commands = createClient({ url });
    // MERIDIAN.AWAIT holds up its connection: never the one that others use.
    this.#waiters = createClientPool({ url }, { minimum: 1, maximum: waiters });
    this.#prefix = prefix;
    this.#ttlSeconds = ttlSeconds;
    for (const client of [this.#commands, this.#waiters]) {
      client.on("error", (error) => console.error(`redis: ${error.message}`));
    }
  }

  async connect() {
    await Promise.all([this.#commands.connect(), this.#waiters.connect()]);
  }

  async close() {
    await this.#waiters.close();
    await this.#commands.close();
  }

  /** Resolves once this region covers the token; rejects with the server's error if it does not. */
  async wait(token, timeoutMs) {
    try {
      await this.#commands.sendCommand(["MERIDIAN.AWAIT", token, "0"]);
    } catch (error) {
      if (!isStale(error) || timeoutMs === 0) throw error;
      await this.#waiters.sendCommand(["MERIDIAN.AWAIT", token, String(timeoutMs)]);
    }
  }

  get(id, done) {
    const parse = (text) => (text === null ? null : JSON.parse(text));
    this.#run(["GET", this.#prefix + id]).then((text) => done(null, parse(text)), done);
  }

  set(id, data, done = () => {}) {
    const ttl = String(this.#ttlSeconds);
    const command = ["SET", this.#prefix + id, JSON.stringify(data), "EX", ttl];
    this.#run(command).then(() => done(null), done);
  }

  destroy(id, done = () => {}) {
    this.#run(["DEL", this.#prefix + id]).then(() => done(null), done);
  }

  touch(id, _data, done = () => {}) {
    const command = ["EXPIRE", this.#prefix + id, String(this.#ttlSeconds)];
    this.#run(command).then(() => done(null), done);
  }

  // Runs one command so that the request's token covers it and everything before it. The commands
  // are queued at once and so stay together on the connection that all requests share: what they
  // begin with makes it forget the others.
  async #run(command) {
    const state = request.getStore();
    const queue = [["MERIDIAN.TOKEN", "FORGET"]];
    if (state?.token) queue.push(["MERIDIAN.AWAIT", state.token, "0"]);
    queue.push(command, ["MERIDIAN.TOKEN"]);
    const replies = await Promise.allSettled(queue.map((args) => this.#commands.sendCommand(args)));
    const failed = replies.find((reply) => reply.status === "rejected");
    if (failed) throw failed.reason;
    if (state) state.token = replies.at(-1).value;
    return replies.at(-2).value;
  }
}

/**
 * The middlewares, for `app.use(...)`.
 *
 * @param {object} options `store`; `session`, the options of express-session; `cookie`, the name of
 *   the token's cookie; `waitMs`, how long a request may wait for its token.
 */
export function meridianSession({ store, session: options, cookie = "meridian", waitMs = 500 }) {
  const before = async (req, res, next) => {
    const state = { token: readCookie(req, cookie) };
    if (state.token) {
      try {
        await store.wait(state.token, waitMs);
      } catch (error) {
        if (isStale(error)) {
          res.set("Retry-After", "1").status(503).json({ error: error.message });
          return;
        }
        // Cut off, of another cluster, or made up: it protects nobody.
        if (!error.message?.startsWith("ERR")) return next(error);
        state.token = undefined;
      }
    }
    req.meridian = state;
    request.run(state, next);
  };

  const after = (req, res, next) => {
    const brought = readCookie(req, cookie);
    const loaded = JSON.stringify(req.session);
    const end = res.end;
    res.end = (...args) => {
      res.end = end;
      saved(req, loaded).then(() => {
        const { token } = req.meridian;
        if (token && token !== brought) {
          res.cookie(cookie, token, { httpOnly: true, sameSite: "lax", secure: req.secure });
        }
        res.end(...args);
      }, next);
      return res;
    };
    next();
  };
  return [before, session({ ...options, store }), after];
}

// express-session sends the headers before it has saved: too early for a token that covers it.
function saved(req, loaded) {
  if (!req.session || JSON.stringify(req.session) === loaded) return Promise.resolve();
  return new Promise((resolve, reject) => {
    req.session.save((error) => (error ? reject(error) : resolve()));
  });
}

function isStale(error) {
  return error.message?.startsWith("STALE") ?? false;
}

function readCookie(req, name) {
  const all = (req.headers.cookie ?? "").split(";").map((part) => part.trim());
  const found = all.find((part) => part.startsWith(`${name}=`));
  return found && decodeURIComponent(found.slice(name.length + 1));
}
