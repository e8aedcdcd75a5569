/** How QEMU attaches a device that is served on `socket`: lines of an `Examples:` section. */
export function qemuExample(socket: string): string {
  return `  $ qemu-system-x86_64 … -object memory-backend-memfd,id=ram,size=1G,share=on -machine memory-backend=ram \\
      -device '{"driver":"vfio-user-pci","socket":{"path":"${socket}","type":"unix"}}'`;
}

/** What goes for every device. */
export const SERVED_UNTIL =
  'It serves until it is interrupted. One VMM at a time, and trackers beside it; the device keeps its state between clients.';
