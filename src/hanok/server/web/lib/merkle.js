// Whether a proof from the audit holds, computed by this browser: the entry's row is in the tree that a checkpoint was signed
// for (RFC 9162, 2.1.3.2). The signature itself is the server's word here; `hanok audit verify --proof` checks that too.

export const canCheck = () => Boolean(globalThis.crypto?.subtle); // absent on pages that came over plain HTTP from elsewhere

export async function holds({ sequence, row, path, checkpoint }) {
  const [, size, root] = checkpoint.split("\n");
  let at = BigInt(sequence); // numbers of rows may be larger than shifts reach
  let last = BigInt(size) - 1n;
  if (at > last) return false;
  let reached = await hash([0], new TextEncoder().encode(row));
  for (const step of path.map(fromHex)) {
    if (last === 0n) return false;
    if (at & 1n || at === last) {
      reached = await hash([1], step, reached);
      while (!(at & 1n) && at) [at, last] = [at >> 1n, last >> 1n];
    } else reached = await hash([1], reached, step);
    [at, last] = [at >> 1n, last >> 1n];
  }
  return last === 0n && btoa(String.fromCharCode(...reached)) === root && JSON.parse(row).sequence === sequence;
}

async function hash(...parts) {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let place = 0;
  for (const part of parts) {
    joined.set(part, place);
    place += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined));
}

const fromHex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
