/** A service worker: what was loaded once is there without network; with network, the newest is taken. */

const CACHE = "ssdlite";
const FIRST = ["./", "page.css", "page.mjs", "folder.mjs", "../javascript/ssdlite.mjs"]; // loaded before this one runs

self.oninstall = (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FIRST)));
};
self.onactivate = (event) => event.waitUntil(self.clients.claim());
self.onfetch = (event) => {
  if (event.request.method === "GET") event.respondWith(newestOrKept(event.request));
};

async function newestOrKept(request) {
  let response;
  try {
    response = await fetch(request);
  } catch {
    const kept = await caches.match(request, { ignoreSearch: request.mode === "navigate" });
    return kept ?? fetch(request); // a second time: a network that changes breaks off what is on its way
  }
  if (response.ok) await keep(request, response.clone());
  return response;
}

/** Where there is no room for it, the page works all the same, with network. */
async function keep(request, response) {
  try {
    await (await caches.open(CACHE)).put(request, response);
  } catch (error) {
    console.warn(`not kept for use without network: ${request.url}: ${error.message}`);
  }
}
