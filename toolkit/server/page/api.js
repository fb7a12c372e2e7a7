// Requests to the server: the page's token and the lease stay in this browser, for this address alone.

const store = { token: localStorage.getItem("gstk.token"), lease: localStorage.getItem("gstk.lease") };

export function keep(name, value) {
  store[name] = value;
  localStorage.setItem(`gstk.${name}`, value);
}

// The token comes behind the #, which browsers send to nobody.
export function takeToken() {
  const given = /[#&]token=([^&]+)/.exec(location.hash);
  if (given) {
    keep("token", decodeURIComponent(given[1]));
    history.replaceState(null, "", location.pathname);
  }
  return store.token;
}

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function call(method, path, body, headers = {}) {
  const answer = await fetch(path, {
    method, body, cache: "no-store",
    headers: { Authorization: `Bearer ${store.token}`, "X-Lease-Token": store.lease ?? "", ...headers },
  });
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, found.detail ?? `the server answered ${answer.status}`);
}

export const get = async (path) => (await call("GET", path)).json();
export const post = async (path, body = {}) => (await call("POST", path, JSON.stringify(body))).json();
export const put = (path, body) => call("PUT", path, body, { "Content-Type": "application/octet-stream" });

// An answer with bytes, and what its X-Meta header says of them.
export async function bytes(method, path, body) {
  const answer = await call(method, path, body === undefined ? undefined : JSON.stringify(body));
  return { meta: JSON.parse(answer.headers.get("X-Meta") ?? "{}"), data: await answer.arrayBuffer() };
}
