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
  try {
    const response = await fetch(request);
    if (response.ok) await (await caches.open(CACHE)).put(request, response.clone());
    return response;
  } catch (error) {
    const kept = await caches.match(request, { ignoreSearch: request.mode === "navigate" });
    if (kept) return kept;
    throw error;
  }
}
