(() => {
  const form = document.getElementById("tidegate-email"), held = document.getElementById("tidegate-held");
  const field = form.email, key = "tidegate-email";
  let timer, sent;
  const keep = () => {
    const kept = [field.value, document.activeElement === field, field.selectionStart, field.selectionEnd];
    try { sessionStorage[key] = sent || !field.value ? "" : JSON.stringify(kept); } catch {}
  };
  const hold = () => {
    clearTimeout(timer);
    held.hidden = false;
    if (document.readyState === "complete") stop();
  };
  const goOn = () => {
    if (field.value) return;
    held.hidden = true;
    clearTimeout(timer);
    timer = setTimeout(() => location.reload(), form.dataset.refresh * 1000);
  };
  field.onfocus = hold;
  field.oninput = () => { hold(); keep(); };
  field.onblur = goOn;
  form.onsubmit = () => { sent = true; keep(); };
  addEventListener("pagehide", keep);
  addEventListener("pageshow", () => {
    sent = false;
    // the refresh is set once the page is there: what was typed before that holds it now
    if (field.value || document.activeElement === field) setTimeout(hold);
  });
  try {
    const [text, focused, start, end] = JSON.parse(sessionStorage[key]);
    field.value = text;
    if (focused) { field.focus(); field.setSelectionRange(start, end); }
  } catch {}
})();
