// A web app as small as it gets: log in, say who you are, log out. One runs in each region.
//
//   REDIS_URL=redis://127.0.0.1:7379 REGION=us-east PORT=3000 SESSION_SECRET=... node app.js

import { once } from "node:events";
import { pathToFileURL } from "node:url";
import express from "express";
import { MeridianStore, meridianSession } from "./meridian-session.js";

/** Starts the app of one region; resolves with a function that stops it. */
export async function start({ redisUrl, region, host, port, secret, waitMs }) {
  const store = new MeridianStore({ url: redisUrl });
  await store.connect();
  const app = express();
  app.disable("x-powered-by");
  app.use(express.urlencoded({ extended: false, limit: "1kb" }));
  app.use(
    meridianSession({
      store,
      waitMs,
      session: { secret, resave: false, saveUninitialized: false, name: "sid" },
    }),
  );
  app.get("/", (req, res) => res.json({ region, user: req.session.user ?? null }));
  app.post("/login", (req, res, next) => {
    // A new session for who has logged in: the old one's name may be known to others.
    req.session.regenerate((error) => {
      if (error) return next(error);
      req.session.user = String(req.body?.user ?? "");
      res.json({ region, user: req.session.user });
    });
  });
  app.post("/logout", (req, res, next) => {
    req.session.destroy((error) => (error ? next(error) : res.json({ region, user: null })));
  });
  const server = app.listen(port, host);
  await once(server, "listening");
  const stop = async () => {
    server.close();
    server.closeAllConnections();
    await store.close().catch(() => {});
  };
  return { port: server.address().port, stop };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { REDIS_URL, REGION, HOST, PORT, SESSION_SECRET, WAIT_MS } = process.env;
  if (!SESSION_SECRET) throw new Error("SESSION_SECRET is not set: the same one in every region");
  const { port } = await start({
    redisUrl: REDIS_URL ?? "redis://127.0.0.1:7379",
    region: REGION ?? "here",
    host: HOST ?? "127.0.0.1",
    port: Number(PORT ?? 3000),
    secret: SESSION_SECRET,
    waitMs: Number(WAIT_MS ?? 500),
  });
  console.log(`listening on port ${port}`);
}
