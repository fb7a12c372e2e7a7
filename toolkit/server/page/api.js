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

// The bytes of an answer, and what its X-Meta header says of them. on(share) is told how much has gone, or has come:
// fetch() does not tell of what is sent.
export const request = (method, path, body = null, on = () => {}) => new Promise((done, fail) => {
  const asked = new XMLHttpRequest();
  asked.open(method, path);
  asked.responseType = "arraybuffer";
  asked.setRequestHeader("Authorization", `Bearer ${store.token}`);
  asked.setRequestHeader("X-Lease-Token", store.lease ?? "");
  (body instanceof Blob ? asked.upload : asked).onprogress = (e) => on(e.loaded / e.total);
  asked.onerror = () => fail(new TypeError("the connection was lost"));
  asked.onload = () => {
    if (asked.status < 300) return done({ data: asked.response, meta: JSON.parse(asked.getResponseHeader("X-Meta") ?? "{}") });
    let detail = `the server answered ${asked.status}`;
    try { ({ detail } = parsed(asked.response)); } catch { /* not of the server's own */ }
    fail(new Refused(asked.status, detail));
  };
  asked.send(body);
});

const parsed = (data) => JSON.parse(new TextDecoder().decode(data));
export const get = async (path) => parsed((await request("GET", path)).data);
export const post = async (path, body = {}) => parsed((await request("POST", path, JSON.stringify(body))).data);
