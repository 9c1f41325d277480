// The msgpack that control messages need (docs/protocol.md section 4), and nothing more: integers of 32 bits, text,
// bytes, arrays, maps, nil, booleans; fractions are only read. A map is read as a Map, since some keys are numbers.

export function encode(value) {
  const out = [];
  put(out, value);
  return Uint8Array.from(out);
}

function put(out, value) {
  if (value === null) out.push(0xc0);
  else if (typeof value === "boolean") out.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") {
    if (value < 0x80) out.push(value);
    else out.push(0xce, value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255);
  } else if (typeof value === "string") {
    const text = new TextEncoder().encode(value);
    out.push(0xd9, text.length, ...text);
  } else if (value instanceof Uint8Array) {
    out.push(0xc5, value.length >> 8, value.length & 255, ...value);
  } else if (Array.isArray(value)) {
    out.push(0x90 | value.length);
    for (const each of value) put(out, each);
  } else {
    const pairs = Object.entries(value);
    out.push(0x80 | pairs.length);
    for (const [key, each] of pairs) {
      put(out, key);
      put(out, each);
    }
  }
}

export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const unsigned = (size) => {
    let value = 0;
    for (let n = 0; n < size; n++) value = value * 256 + view.getUint8(at++);
    return value;
  };
  const take = (size) => bytes.slice(at, (at += size));
  const fraction = () => view.getFloat64((at += 8) - 8);
  const text = (size) => new TextDecoder().decode(take(size));
  const array = (size) => Array.from({ length: size }, read);
  const map = (size) => new Map(Array.from({ length: size }, () => [read(), read()]));
  function read() {
    const first = unsigned(1);
    if (first < 0x80) return first;
    if (first < 0x90) return map(first & 15);
    if (first < 0xa0) return array(first & 15);
    if (first < 0xc0) return text(first & 31);
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return take(unsigned(1));
      case 0xc5: return take(unsigned(2));
      case 0xcb: return fraction();
      case 0xcc: return unsigned(1);
      case 0xcd: return unsigned(2);
      case 0xce: return unsigned(4);
      case 0xcf: return unsigned(8);
      case 0xd9: return text(unsigned(1));
      case 0xda: return text(unsigned(2));
      case 0xdc: return array(unsigned(2));
      case 0xde: return map(unsigned(2));
    }
    if (first >= 0xe0) return first - 0x100;
    throw new Error(`msgpack ${first.toString(16)}`);
  }
  return read();
}
