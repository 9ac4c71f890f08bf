// A real `workload dev` on free ports in a directory of its own, and calls of its HTTP API.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PROGRAM = process.env.WORKLOAD ?? fileURLToPath(new URL("../../target/debug/workload", import.meta.url));
const START_WAIT_MS = 30_000;
const STOP_WAIT_MS = 20_000;
const WAIT_MS = 20_000;
const LOOK_EVERY_MS = 50;

/** Asks until `look` answers something true, and fails after a while. */
export async function until(what, look) {
  const end = Date.now() + WAIT_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited ${WAIT_MS / 1_000} s in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
  }
}

/** Starts it, and answers once it serves. `stop` ends it and removes its directory. */
export async function startDev() {
  const directory = mkdtempSync(join(tmpdir(), "workload-dashboard-"));
  const flags = ["dev", "--data", join(directory, "data"), "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"];
  const child = spawn(PROGRAM, flags, { stdio: ["ignore", "pipe", "pipe"] });
  // A test run that breaks off leaves nothing behind.
  const killed = () => child.kill("SIGKILL");
  process.once("exit", killed);
  let said = "";
  const origin = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`workload dev did not start:\n${said}`)), START_WAIT_MS);
    const read = (chunk) => {
      said += chunk;
      const found = /HTTP API\s+(http:\/\/\S+)/.exec(said);
      if (!found) return;
      clearTimeout(late);
      resolve(found[1]);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("exit", (code) => reject(new Error(`workload dev ended with ${code}:\n${said}`)));
  });
  const dev = { origin, directory, said: () => said };
  dev.call = async (method, path, body) => {
    const answer = await fetch(`${origin}/api${path}`, { method, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text ? JSON.parse(text) : null;
  };
  dev.stop = async () => {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), STOP_WAIT_MS);
    await ended;
    clearTimeout(late);
    process.off("exit", killed);
    rmSync(directory, { recursive: true, force: true });
  };
  return dev;
}
