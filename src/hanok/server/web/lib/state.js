// What all views share: what the server offers, and what this browser remembers.
const DEFAULTS = { mode: "precise", temperature: 0.8, top_p: 1, temperature_scale: 1, max_tokens: null, seed: null, system: "", preset: "", tools: "", tokens: false, model: null };

export const server = { me: null, features: new Set(), models: [], examples: {}, runsHouse: false, session: null };
export const prefs = { ...DEFAULTS, ...JSON.parse(localStorage.getItem("hanok.prefs") ?? "{}") };

export function remember(values) {
  Object.assign(prefs, values);
  localStorage.setItem("hanok.prefs", JSON.stringify(prefs));
}

export const has = (feature) => server.features.has(feature);

// Whether a model has decoding heads; of none named, whether any has.
export const hasHeads = (model) => server.models.some((one) => one.decoding_heads && (model === undefined || one.id === model));

// What a mode means in a request. Without temperature and top_p a model's decoding heads choose, if it has any; their temperatures
// may be scaled.
export function sampling({ mode, temperature, top_p, temperature_scale = 1, max_tokens, seed }, model) {
  const drawn = {
    precise: { temperature: 0 },
    creative: { temperature: 0.8 },
    model: hasHeads(model) && temperature_scale !== 1 ? { temperature_scale } : {},
    own: { temperature, top_p },
  }[mode];
  return { ...drawn, ...(max_tokens ? { max_tokens } : {}), ...(seed === null || seed === "" ? {} : { seed }) };
}
