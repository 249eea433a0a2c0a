// What a studio shows: how far a run is, the pictures as they form, and those made before, to go back to with a click.
// The Python side is studio.py. Nothing is fetched from outside.

const CSS = `
.rg-studio { --jp-widgets-inline-height: 36px; --jp-widgets-font-size: 14px; --jp-widgets-input-border-color: #767676; }
.rg-static { display: none !important; }
.rg-studio button, .rg-studio .jupyter-button { min-height: 44px; line-height: 1.2; border: 1px solid var(--jp-ui-font-color2, #595959);
  border-radius: 4px; color: var(--jp-ui-font-color0, #1a1a1a); background: var(--jp-layout-color1, #fff); }
.rg-studio button.mod-active { color: #fff; background: #00527a; }
.rg-studio button:disabled { opacity: 1 !important; color: var(--jp-ui-font-color1, #595959) !important;
  background: var(--jp-layout-color2, #ececec) !important; border-style: dashed; }
.rg-studio :is(button, input, textarea, a):focus-visible { outline: 3px solid #0072B2 !important; outline-offset: 2px; }
.rg-studio input[type=checkbox] { width: 22px; height: 22px; margin: auto 8px auto 0; vertical-align: middle; }
.rg-stage { font: 14px/1.45 system-ui, sans-serif; max-width: 100%; }
.rg-stage progress { width: min(100%, 30em); height: 18px; vertical-align: middle; accent-color: #00527a; }
.rg-stage .status { min-height: 2.9em; margin: 8px 0; overflow-wrap: anywhere; }
.rg-stage .status.problem { padding: 6px 10px; border: 2px solid var(--jp-error-color1, #a40000); border-radius: 4px; }
.rg-stage .pictures { display: flex; flex-wrap: wrap; gap: 12px; }
.rg-stage figure { flex: 1 1 170px; max-width: 256px; margin: 0; }
.rg-stage figure img { display: block; width: 100%; image-rendering: pixelated; outline: 1px solid #767676; }
.rg-stage ol { display: flex; flex-wrap: wrap; gap: 8px; margin: 8px 0; padding: 0; list-style: none; }
.rg-stage li button { padding: 4px; font: inherit; cursor: pointer; touch-action: manipulation; }
.rg-stage li button[aria-pressed=true] { border: 3px solid #00527a; padding: 2px; font-weight: 700; }
.rg-stage li img { display: block; width: 72px; height: 72px; image-rendering: pixelated; }`;

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "rg-stage";
  root.innerHTML = `<style>${CSS}</style><p class="status" role="status"></p>
    <div class="run"><progress aria-label="steps of the run"></progress> <span></span></div><div class="pictures"></div>
    <div class="past"><b>History</b><ol aria-label="history: choose a picture to go back to it"></ol></div>`;
  el.append(root);
  const [status, run, pictures, past] = [".status", ".run", ".pictures", ".past"].map((name) => root.querySelector(name));
  const bar = run.querySelector("progress"), steps = run.querySelector("span"), strip = past.querySelector("ol");

  const put = (image, png) => {                                        // a PNG file as the source of an <img>
    const old = image.src;
    image.src = URL.createObjectURL(new Blob([png], { type: "image/png" }));
    if (old) URL.revokeObjectURL(old);
  };
  const drop = (node) => {
    for (const image of node.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    node.remove();
  };
  const add = (parent, name, ...children) => {
    const node = document.createElement(name);
    node.append(...children);
    parent.append(node);
    return node;
  };
  const fit = (list, count, make) => {                                 // as many children as there are pictures
    while (list.children.length > count) drop(list.lastElementChild);
    while (list.children.length < count) make(list.children.length);
  };

  function showStatus() {
    const problem = model.get("problem");
    status.classList.toggle("problem", problem);
    status.textContent = (problem ? "⚠ " : "") + model.get("message");
  }

  function showProgress() {
    const [done, total] = [model.get("done"), model.get("total")];
    run.style.visibility = total ? "visible" : "hidden";
    Object.assign(bar, { max: total || 1, value: done });
    steps.textContent = `step ${done} of ${total}`;
  }

  function showPictures() {
    const files = model.get("pictures"), captions = model.get("captions");
    fit(pictures, files.length, () => add(add(pictures, "figure", document.createElement("img")), "figcaption"));
    files.forEach((png, i) => {
      const [image, caption] = pictures.children[i].children;
      put(image, png);
      image.alt = `picture ${captions[i]}`;
      caption.textContent = captions[i];
    });
  }

  function showAnswers() {                                             // once the pictures are on the screen: for who measures that
    const [wish, whole] = model.get("answers");
    Promise.all([...pictures.querySelectorAll("img")].map((image) => image.decode().catch(() => null))).then(() => {
      root.dataset.answers = `${wish} ${whole}`;
    });
  }

  function showHistory() {
    const files = model.get("history");
    past.hidden = files.length === 0;
    fit(strip, files.length, (i) => {
      const button = add(add(strip, "li"), "button", document.createElement("img"), document.createElement("span"));
      button.type = "button";
      button.onclick = () => model.send({ go_back: i });
    });
    files.forEach((png, i) => put(strip.children[i].querySelector("img"), png));
    showChosen();
  }

  function showChosen() {
    const labels = model.get("labels");
    [...strip.children].forEach(({ firstChild: button }, i) => {
      button.setAttribute("aria-pressed", i === model.get("chosen"));
      button.setAttribute("aria-label", `picture ${labels[i] ?? i + 1}`);
      button.title = labels[i] ?? "";
      button.firstChild.alt = "";
      button.lastChild.textContent = i + 1;
    });
  }

  const keep = ({ target, key, ctrlKey, metaKey }) => {                // keys in the studio are no shortcuts of the notebook, but what saves it
    const saves = (ctrlKey || metaKey) && key?.toLowerCase() === "s";
    for (let node = target; node.closest?.(".rg-studio, .rg-stage"); node = node.parentElement) {
      node.toggleAttribute("data-lm-suppress-shortcuts", !saves);
    }
  };
  window.addEventListener("keydown", keep, true);

  const press = () => {                                                // which of the five is chosen ipywidgets shows by a colour alone
    for (const button of root.closest(".rg-studio")?.querySelectorAll(".widget-toggle-button") ?? [])
      button.setAttribute("aria-pressed", button.classList.contains("mod-active"));
  };
  document.addEventListener("click", press);
  const seen = new ResizeObserver(press);                              // it tells once the studio is on the page
  seen.observe(root);

  const watched = { message: showStatus, problem: showStatus, done: showProgress, total: showProgress, captions: showPictures,
    pictures: showPictures, answers: showAnswers, history: showHistory, labels: showChosen, chosen: showChosen };
  for (const [name, action] of Object.entries(watched)) model.on(`change:${name}`, action);
  for (const action of new Set(Object.values(watched))) action();
  return () => {
    for (const [name, action] of Object.entries(watched)) model.off(`change:${name}`, action);
    window.removeEventListener("keydown", keep, true);
    document.removeEventListener("click", press);
    seen.disconnect();
    drop(root);
  };
}

export default { render };
