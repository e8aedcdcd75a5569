/**
 * One step of several devices, all at once: done when all have answered, so that the next step, or the way back after a failure, finds none of
 * them still on its way.
 * @throws what the first that failed says, in order of the devices
 */
export async function inStep<Device, Result>(
  devices: readonly Device[],
  step: (device: Device) => Promise<Result>,
): Promise<Result[]> {
  const answers = await Promise.allSettled(devices.map(async device => step(device)));
  return answers.map(answer => {
    if (answer.status === 'rejected') throw answer.reason;
    return answer.value;
  });
}
