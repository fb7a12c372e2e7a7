// A volume and its labels. Arrays lie as the file has them, (z,y,x); planes are turned to the patient.

const PATIENT = [["R", "L"], ["A", "P"], ["I", "S"]]; // letters at the low and high end of LPS x, y, z

// Which array axis (0 = z, 1 = y, 2 = x) lies along each patient axis, and whether it runs the same way.
function patientAxes(direction) {
  const column = (axis) => [0, 1, 2].map((row) => direction[3 * row + 2 - axis]); // LPS vector of an array axis
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const fit = (order) => order.reduce((sum, axis, patient) => sum + Math.abs(column(axis)[patient]), 0);
  const best = orders.reduce((a, b) => (fit(b) > fit(a) + 1e-9 ? b : a));
  return best.map((axis, patient) => ({ axis, forward: column(axis)[patient] > 0 }));
}

export class Volume {
  constructor(image, voxels) {
    this.image = image;
    this.shape = image.shape;
    this.spacing = image.spacing_mm;
    this.voxels = image.dtype === "uint8" ? new Uint8Array(voxels) : new Int16Array(voxels);
    this.labels = new Uint8Array(this.voxels.length);
    this.counts = new Uint32Array(256);
    this.extent = [[0, 0], [0, 0], [0, 0]]; // of all labels since there were none
    this.strides = [this.shape[1] * this.shape[2], this.shape[2], 1];
    this.cursor = this.shape.map((n) => n >> 1);
    const [lr, ap, is] = patientAxes(image.direction);
    const end = (patient, high) => PATIENT[patient][high ? 1 : 0];
    // Rows run down and columns right as radiologists look at them: the patient's right is on the left.
    const plane = (through, down, right, downPatient, rightPatient, downHigh) => ({
      through: through.axis,
      down: { axis: down.axis, flip: down.forward !== downHigh },
      right: { axis: right.axis, flip: !right.forward },
      letters: {
        left: end(rightPatient, false), right: end(rightPatient, true),
        top: end(downPatient, !downHigh), bottom: end(downPatient, downHigh),
      },
    });
    this.planes = {
      axial: plane(is, ap, lr, 1, 0, true),
      coronal: plane(ap, is, lr, 2, 0, false),
      sagittal: plane(lr, is, ap, 2, 1, false),
    };
  }

  index(voxel) {
    return voxel[0] * this.strides[0] + voxel[1] * this.strides[1] + voxel[2];
  }

  value(voxel) {
    return this.voxels[this.index(voxel)] * this.image.slope + this.image.intercept;
  }

  // RAS mm, as 3D Slicer shows it.
  place(voxel) {
    const { direction, origin_mm, spacing_mm } = this.image;
    const xyz = [voxel[2] * spacing_mm[2], voxel[1] * spacing_mm[1], voxel[0] * spacing_mm[0]];
    const lps = [0, 1, 2].map((row) => origin_mm[row] + xyz.reduce((sum, v, i) => sum + direction[3 * row + i] * v, 0));
    return [-lps[0], -lps[1], lps[2]];
  }

  // Takes the new labels of a box, and keeps count of each object's voxels.
  patch(box, data) {
    if (!box) return;
    const values = new Uint8Array(data), [[z0, z1], [y0, y1], [x0, x1]] = box;
    const isEmpty = this.counts.every((n, id) => id === 0 || n === 0);
    this.extent = isEmpty ? box : this.extent.map(([low, high], i) => [Math.min(low, box[i][0]), Math.max(high, box[i][1])]);
    let from = 0;
    for (let z = z0; z < z1; z++) {
      for (let y = y0; y < y1; y++) {
        let to = z * this.strides[0] + y * this.strides[1] + x0;
        for (const stop = to + x1 - x0; to < stop; to++, from++) {
          const before = this.labels[to], after = values[from];
          if (before !== after) {
            this.counts[before]--;
            this.counts[after]++;
            this.labels[to] = after;
          }
        }
      }
    }
  }

  millilitres(id) {
    return (this.counts[id] * this.spacing[0] * this.spacing[1] * this.spacing[2]) / 1000;
  }
}

// From voxels to grey: a table, so that drawing a slice is one look-up a pixel.
export function greyTable(volume, [low, high]) {
  const { slope, intercept } = volume.image, isByte = volume.voxels instanceof Uint8Array;
  const first = isByte ? 0 : -32768, table = new Uint8Array(isByte ? 256 : 65536);
  for (let i = 0; i < table.length; i++) {
    const value = (i + first) * slope + intercept;
    table[i] = Math.max(0, Math.min(255, Math.round(((value - low) / (high - low)) * 255)));
  }
  return { table, first };
}
