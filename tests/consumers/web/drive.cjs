// Drives a headless Chromium: serves the page on two origins, calls from the one that is not listed, and
// watches from the other. Prints a line of JSON for each thing that the page tells.
// Started by tests/web/browser.rs with the bundled page and its settings.
const { readFileSync } = require("node:fs");
const { createServer } = require("node:http");
const { chromium } = require("playwright-core");

const [bundle, settings] = process.argv.slice(2);
const { browser: executablePath, listed, server, token, purchase } = JSON.parse(settings);
const tell = (line) => console.log(JSON.stringify(line));

async function serve(port) {
  const script = readFileSync(bundle);
  const pages = createServer((request, answer) => {
    const isScript = request.url === "/page.js";
    answer.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    answer.end(isScript ? script : '<!doctype html><script src="/page.js"></script>');
  });
  await new Promise((resolve) => pages.listen(port, "127.0.0.1", resolve));
  return `http://127.0.0.1:${pages.address().port}/`;
}

async function main() {
  const [own, foreign] = [await serve(listed), await serve(0)];
  const browser = await chromium.launch({
    executablePath,
    headless: true,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const open = async (address) => {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    const page = await context.newPage();
    page.on("console", (message) => console.error(message.text()));
    await page.exposeFunction("tell", tell);
    await page.goto(address);
    return page;
  };
  const call = ([server, token]) => window.call(server, token);
  const watch = ([server, token, purchase]) => window.watch(server, token, purchase);
  const stranger = await open(foreign);
  tell({ foreign: await stranger.evaluate(call, [server, token]) });
  const page = await open(own);
  tell({ own: await page.evaluate(call, [server, token]) });
  tell({ state: await page.evaluate(watch, [server, token, purchase]) });
  await browser.close();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
