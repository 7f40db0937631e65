// Photos that are dropped or chosen, sent as they are; whatever is wrong with one, the server says.
const input = element.querySelector('input');
const label = element.querySelector('label');
const MOST = 64 * 2 ** 20 + 1;

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name, content: reader.result.split(',')[1] || '' });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file.slice(0, MOST));
  });
}

async function send(files) {
  if (files.length) trigger('photos', { files: await Promise.all(Array.from(files, read)) });
  input.value = '';
}

input.addEventListener('change', () => send(input.files));
for (const name of ['dragenter', 'dragover']) {
  label.addEventListener(name, (event) => { event.preventDefault(); label.classList.add('over'); });
}
for (const name of ['dragleave', 'drop']) {
  label.addEventListener(name, (event) => { event.preventDefault(); label.classList.remove('over'); });
}
label.addEventListener('drop', (event) => send(event.dataTransfer.files));
