function render({model, el}) {
  const group = document.createElement("fieldset"), name = `choice-${Math.random()}`;
  group.innerHTML = "<legend></legend>";
  group.firstChild.textContent = model.get("description");
  const buttons = model.get("options").map(option => {
    const label = document.createElement("label"), button = document.createElement("input");
    Object.assign(button, {type: "radio", name, value: option});
    button.addEventListener("change", () => { model.set("value", option); model.save_changes(); });
    label.append(button, option);
    group.append(label);
    return button;
  });
  const show = () => buttons.forEach(one => { one.checked = one.value === model.get("value"); });
  model.on("change:value", show);
  show();
  el.append(group);
  return () => model.off("change:value", show);
}
export default {render};
