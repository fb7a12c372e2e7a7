// What was dropped or chosen, sorted into volumes: a file of a known format, or the DICOM slices of a folder.

const KNOWN = /\.(nii|nii\.gz|nrrd|mha|npz|nhdr|mhd)$/i;

export function groups(files) {
  const found = new Map();
  for (const { path, file } of files) {
    if (file.name.startsWith(".") || file.name.toUpperCase() === "DICOMDIR") continue;
    const key = KNOWN.test(file.name) ? path : path.slice(0, path.lastIndexOf("/") + 1) || "DICOM";
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(file);
  }
  return [...found].sort(([a], [b]) => a.localeCompare(b)).map(([name, list]) => ({ name, files: list }));
}

export const chosen = (list) => [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));

export async function dropped(transfer) {
  const files = [];
  const walk = async (entry, at) => {
    if (entry.isFile) {
      files.push({ path: at + entry.name, file: await new Promise((done, fail) => entry.file(done, fail)) });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // at most a hundred entries come at a time
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return;
      for (const inner of some) await walk(inner, `${at}${entry.name}/`);
    }
  };
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  for (const entry of entries) await walk(entry, "");
  return files;
}
