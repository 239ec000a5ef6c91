"use strict";

const at = (id) => document.getElementById(id);
let model = null;
let running = null; // what stops the request under way

function headers(more) {
  const key = at("key").value.trim();
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

function say(sentence) {
  at("problem").textContent = sentence.charAt(0).toUpperCase() + sentence.slice(1);
  at("problem").hidden = !sentence;
}

async function learn() {
  const found = await fetch("v1/model", { headers: headers({}) });
  if (found.status === 401) {
    at("keyed").hidden = false;
    at("alarms").textContent = "Give your key to see them.";
    return false;
  }
  if (!found.ok) throw new Error("The service does not answer.");
  model = await found.json();
  at("model").textContent = `Model: ${model.model}.`;
  const alarms = await (await fetch("v1/alarms", { headers: headers({}) })).json();
  at("alarms").textContent = alarms.watched ? spoken(alarms.state) : "Nothing watches this service at the moment.";
  return true;
}

function spoken(state) {
  if (state !== null && typeof state === "object" && typeof state.sentence === "string") return state.sentence;
  return `This service is watched. Its state: ${JSON.stringify(state)}`;
}

function name(index) {
  const called = model.names[index];
  return called === String(index) ? `class ${index}` : called;
}

function draw(now) {
  const leading = now.votes
    .map((count, index) => ({ count, index }))
    .filter((one) => one.count > 0)
    .sort((a, b) => b.count - a.count)
    .slice(0, 5);
  at("bars").replaceChildren(
    ...leading.map((one) => {
      const row = document.createElement("div");
      row.className = "bar";
      const label = document.createElement("span");
      label.textContent = name(one.index);
      const bar = document.createElement("progress");
      bar.max = now.drawn;
      bar.value = one.count;
      bar.setAttribute("aria-label", `votes for ${name(one.index)}`);
      const count = document.createElement("b");
      count.textContent = one.count;
      row.append(label, bar, count);
      return row;
    }),
  );
  at("counted").textContent = now.drawn ? `${now.drawn} votes so far` : "Beginning ...";
}

function inWords(answer) {
  if (answer.class === null) {
    return "The votes do not agree enough. The program would rather say nothing than something that a small change of the picture could turn.";
  }
  const size = model.input.reduce((a, b) => a * b);
  const each = (100 * answer.radius) / Math.sqrt(size);
  const dot = Math.min(100, (100 * answer.radius) / Math.sqrt(model.input[0]));
  const low = (x, digits) => (Math.floor(x * 10 ** digits) / 10 ** digits).toFixed(digits);
  return `The answer stays the same if every dot of the picture changes by up to ${low(each, 1)}% of the way from black to white, or a single dot by ${low(dot, 0)}%, whatever the change is.`;
}

function show(answer) {
  at("answer").hidden = false;
  const given = answer.class !== null;
  at("class").textContent = given ? `This is ${name(answer.class)}.` : "No answer.";
  at("class").dataset.class = given ? answer.class : "";
  at("radius").textContent = inWords(answer);
  at("radius").dataset.radius = answer.radius;
  const goal = Object.values(answer.reached);
  const reached = goal.length && goal.every(Boolean) ? "It withstands the change that you asked for. " : "It was not shown to withstand all of the change that you asked for. ";
  at("chance").textContent = given ? `${reached}The chance that this statement is wrong is at most ${+(100 * answer.alpha).toPrecision(3)}%.` : "";
  at("changed").hidden = !answer.changed;
  at("changed").textContent = answer.changed ? `Your picture was ${answer.changed} first; the answer is about the picture so made.` : "";
  const same = answer.clean.class === answer.class;
  at("clean").textContent = given && !same ? "Without the random changes the program says something else about this picture. Be careful with it." : "";
  at("record").href = `v1/records/${answer.id}`;
  at("counted").textContent = `${answer.n} votes`;
  draw({ votes: answer.votes, drawn: answer.n });
  at("counted").textContent = `${answer.n} votes`;
}

async function ask(file) {
  running?.abort();
  running = new AbortController();
  const mine = running;
  say("");
  for (const part of ["answer", "voting", "preview"]) at(part).hidden = true;
  if (!["image/png", "image/jpeg"].includes(file.type)) return say("This is no PNG or JPEG picture; choose another file.");
  at("preview").src = URL.createObjectURL(file);
  at("preview").hidden = false;
  if (model === null && !(await learn())) return say("Give your key first.");
  at("voting").hidden = false;
  draw({ votes: [], drawn: 0 });
  const share = Number(document.querySelector("input[name=goal]:checked").value);
  const goal = (share * model.sigma).toPrecision(3);
  const wait = Math.min(30, model.limits.seconds);
  const answer = await fetch(`v1/certify?goal=radii=${goal}&deadline=${wait}&resize=true`, {
    method: "POST",
    headers: headers({ "Content-Type": file.type, Accept: "text/event-stream" }),
    body: file,
    signal: mine.signal,
  });
  if (!answer.ok) {
    at("voting").hidden = true;
    return say((await answer.json()).error);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, event, data] = part.match(/^event: (\w+)\ndata: (.*)$/s);
      const content = JSON.parse(data);
      if (event === "progress") draw(content);
      if (event === "answer") show(content);
      if (event === "problem") say(content.error);
    }
  }
}

let last = null;
function take(files) {
  if (files.length === 0) return;
  last = files[0];
  again();
}
function again() {
  if (last === null) return;
  ask(last).catch((error) => {
    if (error.name !== "AbortError") say("The service does not answer. Try again in a moment.");
  });
}

at("preview").addEventListener("error", () => (at("preview").hidden = true));
at("file").addEventListener("change", (event) => take(event.target.files));
at("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") at("file").click();
});
for (const radio of document.querySelectorAll("input[name=goal]")) radio.addEventListener("change", again);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
at("record").addEventListener("click", async (event) => {
  if (!at("key").value) return; // the link itself will do
  event.preventDefault();
  const found = await fetch(at("record").href, { headers: headers({}) });
  at("shown").textContent = JSON.stringify(await found.json(), null, 1);
  at("shown").hidden = false;
});
at("ask").addEventListener("submit", (event) => event.preventDefault());
at("key").addEventListener("change", () =>
  learn()
    .then((known) => (known ? again() : at("key").value && say("The service does not know this key.")))
    .catch(() => say("The service does not answer.")),
);
learn().catch(() => say("The service does not answer."));
