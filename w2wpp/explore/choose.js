// A click on a face, or Enter or Space on it.
element.addEventListener('click', (event) => {
  const face = event.target.closest('[data-number]');
  if (!face) return;
  for (const each of element.querySelectorAll('[data-number]')) {
    each.setAttribute('aria-pressed', String(each === face));
  }
  trigger('take', { number: Number(face.dataset.number) });
});
