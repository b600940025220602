// The map: the dot nearest to the pointer says its latent, and a click opens it. Without this script its links remain.
{
  const picture = document.querySelector("svg.map[data-first]");
  const held = document.getElementById("dots");
  if (picture && held) {
    const dots = JSON.parse(held.textContent);
    const ring = picture.querySelector(".pointed");
    const said = document.querySelector(".map-said");
    const prefix = picture.dataset.first;
    const query = prefix.indexOf("?");
    const address = (latent) => query < 0 ? prefix.replace(/0$/, latent) : prefix.slice(0, query).replace(/0$/, latent) + prefix.slice(query);
    let found = null;
    const nearest = (event) => {
      const box = picture.getBoundingClientRect();
      const scale = picture.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
      let least = (14 * scale) ** 2;
      found = null;
      for (const dot of dots) {
        const far = (dot[1] - x) ** 2 + (dot[2] - y) ** 2;
        if (far < least) { least = far; found = dot; }
      }
    };
    picture.addEventListener("pointermove", (event) => {
      nearest(event);
      ring.setAttribute("visibility", found ? "visible" : "hidden");
      picture.classList.toggle("on-dot", found !== null);
      if (found) {
        ring.setAttribute("cx", found[1]);
        ring.setAttribute("cy", found[2]);
        said.textContent = `latent ${found[0]}  ${found[3]}`;
      }
    });
    picture.addEventListener("click", (event) => {
      nearest(event);
      if (found && !event.target.closest("a")) location.assign(address(found[0]));
    });
  }
}
