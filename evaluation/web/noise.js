// Noise as JAX draws it, bit for bit up to the last rounding, so that a seed and a number give the
// picture here that sample.py gives.

const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];
const PARITY = 0x1bd11bda;

// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// 2011). A key and a counter are two 32-bit numbers each, and so is the result.
function threefry([key0, key1], [counter0, counter1]) {
  const keys = [key0, key1, key0 ^ key1 ^ PARITY];
  let x = (counter0 + keys[0]) | 0;
  let y = (counter1 + keys[1]) | 0;
  for (let round = 0; round < 5; round++) {
    for (const rotation of ROTATIONS[round % 2]) {
      x = (x + y) | 0;
      y = ((y << rotation) | (y >>> (32 - rotation))) ^ x;
    }
    x = (x + keys[(round + 1) % 3]) | 0;
    y = (y + keys[(round + 2) % 3] + round + 1) | 0;
  }
  return [x >>> 0, y >>> 0];
}

// jax.random.key, fold_in, split and bits, for counts below 2^32.
const keyOf = (seed) => [0, seed >>> 0];
const foldIn = (key, number) => threefry(key, keyOf(number));
const split = (key) => [threefry(key, [0, 0]), threefry(key, [0, 1])];

function bits(key, index) {
  const [x, y] = threefry(key, [0, index]);
  return (x ^ y) >>> 0;
}

// The inverse of the error function, by the polynomials of Giles, "Approximating the erfinv
// function" (2010), for single precision.
const CENTRE = [
  2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
  -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
];
const TAIL = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
  -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
];

function inverseErf(x) {
  const w = -Math.log1p(-x * x);
  const [coefficients, at] = w < 5 ? [CENTRE, w - 2.5] : [TAIL, Math.sqrt(w) - 3];
  return x * coefficients.reduce((sum, coefficient) => sum * at + coefficient, 0);
}

// jax.random.normal: a number in (-1, 1) of 23 random bits, through the inverse error function.
const LEAST = -0.9999999403953552; // the float32 after -1

function normals(key, count) {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const unit = (bits(key, i) >>> 9) / 2 ** 23; // in [0, 1)
    const uniform = Math.max(LEAST, Math.fround(unit * 2 + LEAST));
    values[i] = Math.SQRT2 * inverseErf(uniform);
  }
  return values;
}

// jax.random.randint: numbers of 0 .. span - 1, of 64 random bits each.
function integers(key, count, span) {
  const [high, low] = split(key);
  const factor = (2 ** 16 % span) ** 2 % span; // 2^32 mod span
  const values = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    const product = Math.imul(bits(high, i) % span, factor) >>> 0;
    values[i] = ((product + (bits(low, i) % span)) >>> 0) % span;
  }
  return values;
}

// The noise and the style of picture `index` of a seed, as models/sampling.py draws them.
export function draw(seed, index, facts) {
  const [noiseKey, styleKey] = split(foldIn(keyOf(seed), index));
  const size = facts.noiseShape.reduce((product, side) => product * side, 1);
  const styles = Math.max(facts.styleEntries, 1);
  return {noise: normals(noiseKey, size), style: integers(styleKey, facts.styleCount, styles)};
}

// A way from one draw to another, t in [0, 1], along which the noise keeps its spread.
// Styles are numbers of a table, with nothing in between: the nearer draw gives them.
export function between(first, second, t) {
  if (t === 0) return first;
  if (t === 1) return second;
  const [a, b] = [Math.cos((t * Math.PI) / 2), Math.sin((t * Math.PI) / 2)];
  const noise = first.noise.map((value, i) => a * value + b * second.noise[i]);
  return {noise, style: t < 0.5 ? first.style : second.style};
}
