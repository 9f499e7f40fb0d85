function plotly(model) {  // once per page, whatever draws first
  globalThis.i2vaePlotly ??= (async () => {
    const library = await model.widget_manager.get_model(model.get("library").slice("IPY_MODEL_".length));
    const url = URL.createObjectURL(new Blob([library.get("source")], {type: "text/javascript"}));
    await import(url);
    URL.revokeObjectURL(url);
    return window.Plotly;
  })();
  return globalThis.i2vaePlotly;
}
function render({model, el}) {
  const frame = document.createElement("div");
  frame.setAttribute("role", "img");
  frame.textContent = "drawing …";
  el.append(frame);
  let last = Promise.resolve(), drawn = false, closed = false;
  const draw = async () => {
    const Plotly = await plotly(model);
    if (closed) return;
    const {data, layout} = JSON.parse(model.get("figure"));  // a copy: plotly.js writes into what it gets
    const font = {color: getComputedStyle(el).color};  // of the theme; the template's own would win
    layout.font = {...layout.font, ...font};
    layout.template.layout.font = {...layout.template.layout.font, ...font};
    layout.autosize = true;
    frame.setAttribute("aria-label", model.get("description"));
    if (!drawn) frame.textContent = "";
    drawn = true;
    await Plotly.react(frame, data, layout, {displaylogo: false});
  };
  const redraw = () => { last = last.then(draw).catch(error => { frame.textContent = `not drawn: ${error}`; }); };
  model.on("change:figure", redraw);
  const resized = new ResizeObserver(() => drawn && el.clientWidth && globalThis.Plotly.Plots.resize(frame));
  resized.observe(el);
  const themed = new MutationObserver(redraw);
  themed.observe(document.body, {attributes: true, attributeFilter: ["data-jp-theme-light"]});
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  redraw();
  return () => {
    closed = true;
    model.off("change:figure", redraw);
    resized.disconnect();
    themed.disconnect();
    dark.removeEventListener("change", redraw);
    if (drawn) globalThis.Plotly.purge(frame);
  };
}
export default {render};
