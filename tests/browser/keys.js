// The responder's side of the key agreement, and SFrame (docs/protocol.md sections 7 and 2), by WebCrypto.

const subtle = crypto.subtle;
const ascii = (text) => new TextEncoder().encode(text);
const DOMAIN = ascii("vrl-e2e-v1\0");
const HELLO = 0, COMMIT = 1, OFFER = 2, REVEAL = 3, CONFIRM = 4, CHOSEN = 5;
const SUITE = 5; // AES_256_GCM_SHA512_128
export const TAG = 16;

export function join(...parts) {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const same = (a, b) => a.length === b.length && a.every((byte, n) => byte === b[n]);
const digest = async (hash, data) => new Uint8Array(await subtle.digest(hash, data));

async function hmac(hash, key, data) {
  const imported = await subtle.importKey("raw", key, { name: "HMAC", hash }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", imported, data));
}

// HKDF-Expand of up to 64 bytes: one block of SHA-512.
const expand = async (root, info, size) =>
  (await hmac("SHA-512", root, join(info, Uint8Array.of(1)))).slice(0, size);

export class Responder {
  // `call`: 16 bytes; `own` and `peer`: participant indices, ours the higher one.
  constructor(call, own, peer) {
    Object.assign(this, { call, own, peer, isDone: false });
    this.id = crypto.getRandomValues(new Uint8Array(8));
  }

  async begin() {
    this.ephemeral = await subtle.generateKey("X25519", false, ["deriveBits"]);
    this.identity = await subtle.generateKey("Ed25519", false, ["sign", "verify"]);
    const raw = async (pair) => new Uint8Array(await subtle.exportKey("raw", pair.publicKey));
    const random = crypto.getRandomValues(new Uint8Array(32));
    const suites = Uint8Array.of(1, 0, SUITE);
    this.offer = join(await raw(this.ephemeral), await raw(this.identity), random, suites);
    return this.blob(HELLO, new Uint8Array(8), new Uint8Array(0));
  }

  blob(kind, to, body) {
    return join(Uint8Array.of(1, kind, 0), this.id, to, body);
  }

  // The answer to a blob, or null.
  async take(blob) {
    const [, kind] = blob;
    const sender = blob.slice(3, 11), body = blob.slice(19);
    if (kind === COMMIT) {
      this.commitment = body;
      this.peerId = sender;
      return this.blob(OFFER, sender, this.offer);
    }
    if (kind === REVEAL) {
      await this.agree(body);
      return this.blob(CONFIRM, sender, await this.confirmation());
    }
    if (kind === CONFIRM) {
      const index = Uint8Array.of(this.peer);
      const mac = await hmac("SHA-256", this.macKey, join(ascii("confirm"), index, this.transcript));
      const proof = join(DOMAIN, ascii("identity"), index, this.transcript);
      const valid = await subtle.verify("Ed25519", this.peerIdentity, body.slice(32), proof);
      if (!same(mac, body.slice(0, 32)) || !valid) throw new Error("a wrong confirmation");
      this.isDone = true;
    }
    return null;
  }

  async chosen() {
    const said = join(ascii("chosen"), Uint8Array.of(this.own), this.transcript);
    return this.blob(CHOSEN, this.peerId, await hmac("SHA-256", this.macKey, said));
  }

  async agree(offer) {
    const commitment = await digest("SHA-256", join(DOMAIN, ascii("commit"), offer));
    if (!same(commitment, this.commitment)) throw new Error("a wrong commitment");
    const parts = [this.call, Uint8Array.of(this.peer, this.own, 0), this.peerId, this.id];
    parts.push(commitment, this.offer, offer);
    const sized = parts.flatMap((part) => [Uint8Array.of(part.length >> 8, part.length & 255), part]);
    this.transcript = await digest("SHA-512", join(DOMAIN, ...sized));
    const theirs = await subtle.importKey("raw", offer.slice(0, 32), "X25519", false, []);
    this.peerIdentity = await subtle.importKey("raw", offer.slice(32, 64), "Ed25519", false, ["verify"]);
    const bits = await subtle.deriveBits({ name: "X25519", public: theirs }, this.ephemeral.privateKey, 256);
    const root = await hmac("SHA-512", new Uint8Array(32), new Uint8Array(bits));
    const key = (label, size) => expand(root, join(DOMAIN, ascii(label + "\0"), this.transcript), size);
    this.macKey = await key("mac", 32);
    const number = (await key("sas", 16)).reduce((sum, byte) => sum * 256n + BigInt(byte), 0n);
    this.sas = (number % 1000000n).toString().padStart(6, "0");
    this.sealer = await Sframe.derive(await key(`base ${this.own}`, 64), this.own << 2);
    this.opener = await Sframe.derive(await key(`base ${this.peer}`, 64), this.peer << 2);
  }

  async confirmation() {
    const index = Uint8Array.of(this.own);
    const mac = await hmac("SHA-256", this.macKey, join(ascii("confirm"), index, this.transcript));
    const proof = join(DOMAIN, ascii("identity"), index, this.transcript);
    return join(mac, new Uint8Array(await subtle.sign("Ed25519", this.identity.privateKey, proof)));
  }
}

class Sframe {
  static async derive(base, kid) {
    const made = new Sframe();
    const secret = await hmac("SHA-512", new Uint8Array(64), base);
    const tail = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, kid, 0, SUITE);
    const raw = await expand(secret, join(ascii("SFrame 1.0 Secret key "), tail), 32);
    made.key = await subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
    made.salt = await expand(secret, join(ascii("SFrame 1.0 Secret salt "), tail), 12);
    made.kid = kid;
    return made;
  }

  how(ctr, additionalData) {
    const iv = this.salt.slice();
    for (let n = 0; n < 4; n++) iv[11 - n] ^= (ctr >>> (8 * n)) & 255;
    return { name: "AES-GCM", iv, additionalData, tagLength: 8 * TAG };
  }

  // A media datagram for a flow: flow | H | SFrame header | ciphertext and tag.
  async seal(flow, ctr, plain) {
    const tail = [];
    for (let rest = ctr; rest > 0; rest = rest >>> 8) tail.unshift(rest & 255);
    const low = ctr <= 7 ? ctr : 8 | (tail.length - 1);
    const header = Uint8Array.of((this.kid << 4) | low, ...(ctr <= 7 ? [] : tail));
    const flags = Uint8Array.of(0x40);
    const sealed = await subtle.encrypt(this.how(ctr, join(header, flags)), this.key, plain);
    return join(Uint8Array.of(flow), flags, header, new Uint8Array(sealed));
  }

  // The plaintext of a datagram, and its counter. Throws when it does not open.
  async open(datagram) {
    const flags = datagram[1], start = flags & 0x20 ? 3 : 2;
    const low = datagram[start] & 15, size = low & 8 ? (low & 7) + 1 : 0;
    const end = start + 1 + size;
    let ctr = size ? 0 : low;
    for (const byte of datagram.slice(start + 1, end)) ctr = ctr * 256 + byte;
    const extra = join(datagram.slice(start, end), Uint8Array.of(flags & 0xfd), datagram.slice(2, start));
    const plain = await subtle.decrypt(this.how(ctr, extra), this.key, datagram.slice(end));
    return { ctr, plain: new Uint8Array(plain) };
  }
}
