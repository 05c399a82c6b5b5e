// A page that is read from a disk may not fetch others, as the search does for excerpts: there it shows titles alone.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What scrolls within itself can be reached, and scrolled, by keyboard.
function letScrollByKeyboard() {
  for (const block of document.querySelectorAll(".pst-scrollable-table-container, .cell_output .output, div.math, pre")) {
    if (block.scrollWidth > block.clientWidth + 1) block.tabIndex = 0;
    else block.removeAttribute("tabindex");
  }
}

window.addEventListener("load", () => {
  letScrollByKeyboard();
  new ResizeObserver(letScrollByKeyboard).observe(document.body); // the window, and equations as they are set
});
