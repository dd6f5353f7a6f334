// Keeps every file of the page on the device, so that it opens without a network; other addresses are refused.

importScripts("files.js"); // FILES and VERSION

self.addEventListener("install", (event) => {
  event.waitUntil(
    (async () => {
      const cache = await caches.open(VERSION);
      await cache.addAll(FILES.map((file) => new Request(file, {cache: "reload"})));
      await self.skipWaiting();
    })(),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    (async () => {
      for (const name of await caches.keys()) if (name.startsWith("melfed-") && name !== VERSION) await caches.delete(name);
      await self.clients.claim();
    })(),
  );
});

self.addEventListener("fetch", (event) => {
  event.respondWith(
    (async () => {
      if (new URL(event.request.url).origin !== self.location.origin || event.request.method !== "GET") return Response.error();
      const cache = await caches.open(VERSION);
      return (await cache.match(event.request, {ignoreSearch: true})) ?? fetch(event.request);
    })(),
  );
});
