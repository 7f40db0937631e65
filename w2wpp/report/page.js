// What makes the page's table of people and its latent spaces answer. Without scripts, the figures tell the same.
(() => {
  'use strict';
  const byId = (id) => document.getElementById(id);

  function people() {
    const table = byId('people-table');
    if (!table) return;
    const body = table.tBodies[0], rows = [...body.rows], tools = byId('people-tools'), focus = byId('people-focus');
    const order = byId('people-order'), filters = [...tools.querySelectorAll('[data-attribute]')];
    const worst = byId('people-worst'), count = byId('people-count');

    function arrange() {
      const key = order.value, sign = worst.checked ? 1 : -1;
      const number = (row) => JSON.parse(row.dataset.numbers)[key];
      const of = new Map(rows.map((row) => [row, number(row)]));
      rows.sort((one, other) => {
        const [a, b] = [of.get(one), of.get(other)];
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * (a - b);
      });
      let shown = 0;
      for (const row of rows) {
        const attributes = JSON.parse(row.dataset.attributes);
        row.hidden = filters.some((filter) => filter.value && attributes[filter.dataset.attribute] !== filter.value);
        shown += !row.hidden;
        const value = of.get(row);
        row.querySelector('.number').textContent = value === null ? '\u2013' : value.toFixed(3);
        body.append(row);
      }
      count.textContent = `${shown} of ${rows.length} people`;
    }

    function show(row) {
      if (!row || row.classList.contains('chosen')) return;
      for (const each of rows) each.classList.toggle('chosen', each === row);
      focus.replaceChildren(...[...row.querySelectorAll('td.pictures')].map((cell) => {
        const figure = document.createElement('figure'), image = document.createElement('img');
        const caption = document.createElement('figcaption'), source = cell.querySelector('img');
        [image.src, image.alt] = [source.src, source.alt];
        const scores = [...cell.querySelectorAll('.scores span')].map((score) => score.textContent).join(', ');
        caption.textContent = cell.dataset.title + (scores && `: ${scores}`);
        figure.append(image, caption);
        return figure;
      }));
      byId('people-name').textContent = row.cells[0].innerText.replace(/\s+/g, ' ');
    }

    for (const control of [order, worst, ...filters]) control.addEventListener('input', arrange);
    for (const kind of ['pointerover', 'focusin', 'click']) {
      body.addEventListener(kind, (event) => show(event.target.closest('tr')));
    }
    tools.hidden = byId('people-panel').hidden = false;
    for (const row of rows) row.tabIndex = 0;
    arrange();
    show(rows[0]);
  }

  function walk() {
    const source = byId('walk-data');
    if (!source) return;
    const data = JSON.parse(source.textContent), heldOut = new Set(data.held_out), factor = byId('walk-factor');
    const faces = new Image(), canvases = [...document.querySelectorAll('#walk [data-space]')];
    const EDGE = 10, NEAR = 14, face = byId('walk-face').getContext('2d');
    let here = data.held_out[0] ?? 0;

    const places = canvases.map((canvas) => data.spaces[canvas.dataset.space].points.map(([x, y]) => [
      EDGE + x / data.grid * (canvas.width - 2 * EDGE), EDGE + (1 - y / data.grid) * (canvas.height - 2 * EDGE),
    ]));

    function color(person) {
      const coded = data.factors[factor.value], value = coded.values[person];
      return coded.colors[coded.names ? value : Math.min(8, Math.floor(value * 9))];
    }

    function dot(pen, [x, y], person, size) {
      pen.fillStyle = color(person);
      pen.beginPath();
      if (heldOut.has(person)) {
        pen.moveTo(x, y - 1.4 * size);
        pen.lineTo(x + 1.3 * size, y + size);
        pen.lineTo(x - 1.3 * size, y + size);
        pen.closePath();
      } else {
        pen.arc(x, y, size, 0, 7);
      }
      pen.fill();
      if (heldOut.has(person)) pen.stroke();
    }

    function draw() {
      canvases.forEach((canvas, number) => {
        const pen = canvas.getContext('2d');
        pen.clearRect(0, 0, canvas.width, canvas.height);
        pen.strokeStyle = '#222';
        pen.lineWidth = 1;
        places[number].forEach((place, person) => { if (!heldOut.has(person)) dot(pen, place, person, 2.6); });
        data.held_out.forEach((person) => dot(pen, places[number][person], person, 5));
        pen.lineWidth = 3;
        pen.beginPath();
        pen.arc(...places[number][here], 11, 0, 7);
        pen.stroke();
      });
    }

    function words(person) {
      const said = Object.entries(data.factors).map(([name, coded]) => {
        const value = coded.values[person];
        return `${name} ${coded.names ? coded.names[value] : `${value} (0 ${coded.ends[0]}, 1 ${coded.ends[1]})`}`;
      });
      return [data.people[person], ...said];
    }

    function step(person) {
      here = person;
      const { side, across } = data.faces, size = face.canvas.width;
      face.imageSmoothingQuality = 'high';
      face.drawImage(faces, person % across * side, Math.floor(person / across) * side, side, side, 0, 0, size, size);
      byId('walk-words').replaceChildren(...words(person).map((line) => {
        const item = document.createElement('li');
        item.textContent = line;
        return item;
      }));
      draw();
    }

    function legend() {
      const coded = data.factors[factor.value];
      const names = coded.names ?? [coded.ends[0], ...Array(7).fill(''), coded.ends[1]];
      byId('walk-legend').replaceChildren(...names.map((name, number) => {
        const item = document.createElement('span');
        item.textContent = name;
        item.style.setProperty('--dot', coded.colors[number]);
        return item;
      }));
      draw();
    }

    canvases.forEach((canvas, number) => {
      canvas.addEventListener('pointermove', (event) => {
        const scale = canvas.width / canvas.clientWidth, x = event.offsetX * scale, y = event.offsetY * scale;
        const distances = places[number].map(([u, v]) => Math.hypot(u - x, v - y));
        const nearest = distances.indexOf(Math.min(...distances));
        if (distances[nearest] < NEAR && nearest !== here) step(nearest);
      });
      canvas.addEventListener('keydown', (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!way) return;
        event.preventDefault();
        const [x, y] = places[number][here];
        let nearest = here, least = Infinity;
        places[number].forEach(([u, v], person) => {
          const along = (u - x) * way[0] + (v - y) * way[1], beside = Math.abs((u - x) * way[1] + (v - y) * way[0]);
          const length = Math.hypot(along, beside);
          if (along > 0 && beside <= along && length < least) [nearest, least] = [person, length];
        });
        if (nearest !== here) step(nearest);
      });
    });
    factor.addEventListener('input', legend);
    byId('walk').hidden = false;
    legend();
    faces.addEventListener('load', () => step(here));
    faces.src = data.faces.picture;
  }

  people();
  walk();
})();
