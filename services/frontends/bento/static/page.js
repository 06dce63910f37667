"use strict";

// Draws openapi.json and lets one try each call. Everything comes from this server; text is never inserted as HTML.

const find = (selector, root = document) => root.querySelector(selector);

function row(table, name, text) {
  const line = table.insertRow();
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  line.append(head);
  line.insertCell().textContent = text;
}

function describe(schema) {
  const text = schema.description || (schema.items && schema.items.description) || "";
  return schema.items ? `list. ${text}` : `${schema.type}. ${text}`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function drawCurl(path, section) {
  const url = new URL(`.${path}`, location.href);
  const files = find("input[type=file]", section).files;
  const body = files.length
    ? [...files].map((file) => `-F ${quoted(`images=@${file.name}`)}`).join(" ")
    : `-H 'Content-Type: application/json' -d ${quoted(find("textarea", section).value.replace(/\s*\n\s*/g, " "))}`;
  find(".curl", section).textContent = `curl ${url} ${body}`;
}

function request(section) {
  const files = find("input[type=file]", section).files;
  if (!files.length) {
    const headers = { "Content-Type": "application/json" };
    return { method: "POST", headers, body: find("textarea", section).value };
  }
  const form = new FormData();
  for (const file of files) form.append("images", file);
  return { method: "POST", body: form };
}

function drawPicture(answer, blob, headers) {
  const image = document.createElement("img");
  image.alt = "The picture that was drawn";
  image.src = URL.createObjectURL(blob);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  const origin = ["x-model", "x-model-version", "x-seed"].map((name) => `${name}: ${headers.get(name)}`).join("\n");
  answer.replaceChildren(image, document.createTextNode(`\n${origin}`));
}

async function send(path, section) {
  const [answer, status, button] = [".answer", ".status", "button"].map((selector) => find(selector, section));
  button.disabled = true;
  status.textContent = "…";
  const started = performance.now();
  try {
    const response = await fetch(`.${path}`, request(section));
    const picture = (response.headers.get("content-type") || "").startsWith("image/");
    const body = picture ? await response.blob() : await response.text();
    status.textContent = `${response.status} in ${(performance.now() - started).toFixed(1)} ms`;
    answer.classList.toggle("failed", !response.ok);
    if (picture) {
      drawPicture(answer, body, response.headers);
      return;
    }
    const text = body;
    try {
      answer.textContent = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      answer.textContent = text;
    }
  } catch (error) {
    status.textContent = "";
    answer.classList.add("failed");
    answer.textContent = `No answer: ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

function drawEndpoint(path, operation) {
  const section = find("#endpoint").content.cloneNode(true).firstElementChild;
  const body = operation.requestBody.content["application/json"];
  section.id = operation.operationId;
  find(".path", section).textContent = path;
  find(".summary", section).textContent = operation.summary;
  find(".note", section).textContent = operation.description.replaceAll("`", "");
  const text = find("textarea", section);
  text.value = JSON.stringify(body.example, null, 2);
  text.id = `${section.id}-body`;
  find("label", section).htmlFor = text.id;
  find(".upload", section).hidden = !("multipart/form-data" in operation.requestBody.content);
  for (const [name, schema] of Object.entries(body.schema.properties)) row(find(".members", section), name, describe(schema));
  for (const [status, response] of Object.entries(operation.responses)) {
    if (status !== "200") row(find(".errors", section), status, response.description);
  }
  section.addEventListener("input", () => drawCurl(path, section));
  find("form", section).addEventListener("submit", (event) => {
    event.preventDefault();
    send(path, section);
  });
  drawCurl(path, section);
  return section;
}

async function draw() {
  const main = find("#endpoints");
  try {
    const spec = await (await fetch("openapi.json")).json();
    document.title = `${spec.info.title}: typed endpoints`;
    find("#title").textContent = `${spec.info.title} ${spec.info.version}`;
    find("#about").textContent = spec.info.description;
    const sections = Object.entries(spec.paths).map(([path, item]) => drawEndpoint(path, item.post));
    main.replaceChildren(...sections);
    for (const section of sections) {
      const link = document.createElement("a");
      link.href = `#${section.id}`;
      link.textContent = section.id;
      find("#contents").append(link);
    }
  } catch (error) {
    main.textContent = `The document could not be read: ${error.message}`;
  }
}

draw();
