// What changed between two texts, line by line: the longest common run of lines stays, the rest went or came.

const MOST = 4_000_000; // cells of the table; beyond it everything between the equal ends has changed

// [{ kind: "same" | "gone" | "new", text, before, after }]; before and after: numbers of the line, from 1, where it is there.
export function diff(old, now) {
  const [one, other] = [lines(old), lines(now)];
  let head = 0;
  while (head < one.length && head < other.length && one[head] === other[head]) head += 1;
  let tail = 0;
  while (tail < one.length - head && tail < other.length - head && one.at(-1 - tail) === other.at(-1 - tail)) tail += 1;
  const steps = between(one.slice(head, one.length - tail), other.slice(head, other.length - tail));
  const kinds = [...Array(head).fill("same"), ...steps, ...Array(tail).fill("same")];
  let [before, after] = [0, 0];
  return kinds.map((kind) => {
    if (kind !== "new") before += 1;
    if (kind !== "gone") after += 1;
    return { kind, text: kind === "gone" ? one[before - 1] : other[after - 1], before: kind === "new" ? null : before, after: kind === "gone" ? null : after };
  });
}

// Only what changed, with some lines around it; null stands for what was left out.
export function shortened(rows, around = 2) {
  const near = (place) => rows.slice(Math.max(0, place - around), place + around + 1).some(({ kind }) => kind !== "same");
  const kept = rows.map((row, place) => (near(place) ? row : null));
  return kept.filter((row, place) => row || kept[place - 1] || place === 0);
}

const lines = (text) => (text === "" ? [] : text.replace(/\n$/, "").split("\n"));

function between(one, other) {
  if (one.length * other.length > MOST) return [...one.map(() => "gone"), ...other.map(() => "new")];
  const common = Array.from({ length: one.length + 1 }, () => new Uint32Array(other.length + 1));
  for (let i = one.length - 1; i >= 0; i -= 1) {
    for (let j = other.length - 1; j >= 0; j -= 1) common[i][j] = one[i] === other[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  }
  const steps = [];
  let [i, j] = [0, 0];
  while (i < one.length || j < other.length) {
    if (i < one.length && j < other.length && one[i] === other[j]) steps.push("same"), (i += 1), (j += 1);
    else if (j === other.length || (i < one.length && common[i + 1][j] >= common[i][j + 1])) steps.push("gone"), (i += 1);
    else steps.push("new"), (j += 1);
  }
  return steps;
}
