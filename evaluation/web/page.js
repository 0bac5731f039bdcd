// A page that makes pictures: reads its controls, runs the network, and draws what it gives.

import {between, draw} from "./noise.js";

const facts = JSON.parse(document.getElementById("facts").textContent);
const control = (name) => document.getElementById(name);
const status = control("status");

// ---- the network ----

// Returns a way to run the network: on the graphics card if there is one, or else by WebAssembly.
// The address may say which: ?device=wasm, ?device=webgpu.
async function open() {
  const wanted = new URLSearchParams(location.search).get("device");
  const adapter = await navigator.gpu?.requestAdapter();
  const hasCard = adapter && !adapter.info?.isFallbackAdapter; // a fallback computes on the CPU
  if (wanted === "webgpu" || (hasCard && wanted !== "wasm")) {
    try {
      return await openOn("webgpu", "WebGPU");
    } catch (error) {
      console.warn("WebGPU does not run this network", error);
    }
  }
  return openOn("wasm", "WebAssembly");
}

async function openOn(device, name) {
  const [script, program] = facts.runtime[device];
  const runtime = await import(`./runtime/${script}`);
  runtime.env.wasm.wasmPaths = {wasm: new URL(`./runtime/${program}`, import.meta.url).href};
  runtime.env.wasm.numThreads = 1; // more need headers that plain servers do not send
  const session = await runtime.InferenceSession.create("./model.onnx", {
    executionProviders: [device],
  });
  return {name, session, Tensor: runtime.Tensor};
}

// Returns one image, float32 numbers of about [-1, 1].
async function run({session, Tensor}, {noise, style}, label, alpha) {
  const feeds = {
    noise: new Tensor("float32", noise, [1, ...facts.noiseShape]),
    label: new Tensor("int32", Int32Array.of(label), [1]),
    alpha: new Tensor("float32", Float32Array.of(alpha), [1]),
    style: new Tensor("int32", style, [1, facts.styleCount]),
  };
  // The exporter leaves out an input that the network does not use.
  const known = session.inputNames.map((name) => [name, feeds[name]]);
  return (await session.run(Object.fromEntries(known))).image.data;
}

// ---- pictures ----

function paint(canvas, image) {
  const [height, width, channels] = facts.imageShape;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = image[i * channels + Math.min(channel, channels - 1)];
      pixels.data[4 * i + channel] = Math.round((Math.min(Math.max(value, -1), 1) + 1) * 127.5);
    }
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Puts as many canvases on the page as there are pictures, in a square as far as it goes.
function canvases(count) {
  const grid = control("pictures");
  while (grid.children.length > count) grid.lastChild.remove();
  while (grid.children.length < count) {
    const canvas = document.createElement("canvas");
    [canvas.height, canvas.width] = facts.imageShape;
    canvas.setAttribute("role", "img");
    grid.append(canvas);
  }
  grid.style.setProperty("--columns", Math.ceil(Math.sqrt(count)));
  return [...grid.children];
}

// ---- controls ----

// What the controls say.
function wishes() {
  return {
    label: control("label").value,
    alpha: Number(control("alpha").value),
    seed: Number(control("seed").value) || 0,
    other: Number(control("other").value) || 0,
    t: Number(control("between").value) / 100,
    count: Number(control("count").value),
  };
}

function tell({alpha, t, seed, other}) {
  control("alpha-told").textContent = alpha.toFixed(1);
  const told = {0: `seed ${seed}`, 1: `seed ${other}`}[t] ?? `${Math.round(t * 100)}%`;
  control("between-told").textContent = told;
  control("between").setAttribute("aria-valuetext", told);
}

let network = null;
let asked = 0; // how often the controls have changed; an older drawing stops
let busy = false;

async function drawAll() {
  const wish = wishes();
  tell(wish);
  const mine = ++asked;
  control("pictures").setAttribute("aria-busy", "true");
  if (!network || busy) return;
  busy = true;
  try {
    await drawWish(wish, mine);
  } catch (error) {
    status.textContent = `The network does not run: ${error.message}`;
  } finally {
    busy = false;
  }
  if (mine !== asked) return drawAll();
  control("pictures").setAttribute("aria-busy", "false");
}

async function drawWish(wish, mine) {
  const grid = canvases(wish.count);
  let spent = 0;
  for (const [i, canvas] of grid.entries()) {
    const label = wish.label === "each" ? i % facts.classes.length : Number(wish.label);
    const [first, second] = [wish.seed, wish.other].map((seed) => draw(seed, i, facts));
    const noise = between(first, second, wish.t);
    const start = performance.now();
    const image = await run(network, noise, label, wish.alpha);
    spent += performance.now() - start;
    paint(canvas, image);
    const name = facts.classes[label] ?? "no class";
    canvas.setAttribute("aria-label", `Generated picture ${i + 1}, class ${name}`);
    if (mine !== asked) return; // the controls have changed meanwhile
  }
  const each = (spent / grid.length).toFixed(1);
  const pictures = grid.length === 1 ? "One picture" : `${grid.length} pictures`;
  status.textContent = `${pictures}, ${each} ms each, by ${network.name}.`;
}

for (const input of document.querySelectorAll("#controls input, #controls select")) {
  input.addEventListener("input", drawAll);
}
control("another").addEventListener("click", () => {
  for (const name of ["seed", "other"]) {
    control(name).value = Math.floor(Math.random() * 2 ** 31);
  }
  drawAll();
});
tell(wishes());
try {
  network = await open();
  await drawAll();
} catch (error) {
  status.textContent = `The network could not be loaded: ${error.message}`;
}
