/**
 * Mints a capability token with nothing but node's own crypto: the example for back ends in TypeScript.
 *
 *   import { mintToken } from "./mint-token.ts"
 *   node --input-type=module - '{"v":1, "iss":"app", "sub":{"hex":"00..0f"}, ...}' SEED_HEX < scripts/mint-token.ts
 *
 * A claim that is bytes is a Uint8Array, in JSON {"hex": "..."}. Claims are written in the order given. The
 * types stand in comments, so that node 20 runs this very file and newer ones need no build step either.
 */
import { createHash, createPrivateKey, createPublicKey, sign } from "node:crypto";

/** Header of a PKCS #8 Ed25519 private key (RFC 8410 section 7); the 32-byte seed follows. */
const PKCS8_HEADER = Buffer.from("302e020100300506032b657004220420", "hex");
const DOMAIN = Buffer.from("vrl-cap-v1\0");
const MAX_SIZE = 1024;

/**
 * A big-endian unsigned number of `size` bytes.
 * @type {(value: number, size: number) => Buffer}
 */
const uint = (value, size) => {
  const out = Buffer.alloc(size);
  if (size === 8) out.writeBigUInt64BE(BigInt(value));
  else out.writeUIntBE(value, 0, size);
  return out;
};

/**
 * The shortest of several msgpack heads, as [limit, bytes of the length, first byte], shortest first.
 * @type {(value: number, heads: number[][]) => Buffer}
 */
const head = (value, heads) => {
  for (const [limit, size, first] of heads) {
    if (value < limit) return size === 0 ? Buffer.from([first | value]) : Buffer.concat([Buffer.from([first]), uint(value, size)]);
  }
  throw new RangeError(`${value} does not fit`);
};

/**
 * Shortest msgpack of the value kinds that claims are made of; undefined members of a map are left out.
 * @type {(value: any) => Buffer}
 */
export const pack = (value) => {
  if (typeof value === "number") {
    if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`not an unsigned integer: ${value}`);
    return head(value, [[0x80, 0, 0], [2 ** 8, 1, 0xcc], [2 ** 16, 2, 0xcd], [2 ** 32, 4, 0xce], [2 ** 53, 8, 0xcf]]);
  }
  if (typeof value === "string") {
    const text = Buffer.from(value);
    return Buffer.concat([head(text.length, [[32, 0, 0xa0], [2 ** 8, 1, 0xd9], [2 ** 16, 2, 0xda]]), text]);
  }
  if (value instanceof Uint8Array) return Buffer.concat([head(value.length, [[2 ** 8, 1, 0xc4], [2 ** 16, 2, 0xc5]]), value]);
  if (Array.isArray(value)) return Buffer.concat([head(value.length, [[16, 0, 0x90], [2 ** 16, 2, 0xdc]]), ...value.map(pack)]);
  if (typeof value !== "object" || value === null) throw new TypeError(`no claim is a ${typeof value}`);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  const parts = members.flatMap(([key, member]) => [pack(key), pack(member)]);
  return Buffer.concat([head(members.length, [[16, 0, 0x80], [2 ** 16, 2, 0xde]]), ...parts]);
};

/**
 * The token of `claims`, signed with a 32-byte Ed25519 seed, as base64url text.
 * @type {(claims: Record<string, any>, seed: Uint8Array) => string}
 */
export const mintToken = (claims, seed) => {
  if (seed.length !== 32) throw new RangeError("an Ed25519 seed has 32 bytes");
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_HEADER, seed]), format: "der", type: "pkcs8" });
  const spki = createPublicKey(key).export({ format: "der", type: "spki" });
  const kid = createHash("sha256").update(spki.subarray(-32)).digest().subarray(0, 8);
  const body = pack(claims);
  const signature = sign(null, Buffer.concat([DOMAIN, kid, body]), key);
  const token = Buffer.concat([Buffer.from("V1"), kid, uint(body.length, 2), body, signature]);
  if (token.length > MAX_SIZE) throw new RangeError(`a token of ${token.length} bytes`);
  return token.toString("base64url");
};

const [claimsJson, seedHex] = process.argv.slice(2);
if (claimsJson !== undefined && seedHex !== undefined) {
  const claims = JSON.parse(claimsJson, (_, value) => (value && typeof value.hex === "string" ? Buffer.from(value.hex, "hex") : value));
  console.log(mintToken(claims, Buffer.from(seedHex, "hex")));
}
