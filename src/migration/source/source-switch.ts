import { asVfioError } from '../../uapi/index.js';
import { encodeRecord, type OfferLink, type TakerWord } from '../ownership/index.js';
import { unexpected } from '../stream/frame-channel.js';
import type { Frame } from '../stream/frame-parser.js';
import { decodeTimes, FrameType, type Times } from '../stream/stream-format.js';
import type { SourceLink } from './source-link.js';

/** What happens at the switch. */
export interface SwitchEvents {
  /** The offer is on its way, and cannot be taken back. */
  onOffered(): void;
  /** The destination's devices run; it says how long that took. */
  onResumed(times: Times): void;
}

/** The words of the switch as frames. */
export function offerLinkOver(link: SourceLink, events: SwitchEvents): OfferLink {
  return {
    async offer() {
      // A send that throws has written nothing. One that does not may arrive or not.
      await link.channel.sendDecisive(FrameType.GO);
      events.onOffered();
    },
    next: () => nextWord(link, events),
    confirm: record => link.channel.send(FrameType.OWNER, new TextEncoder().encode(encodeRecord(record))),
  };
}

async function nextWord(link: SourceLink, events: SwitchEvents): Promise<TakerWord> {
  let frame: Frame;
  try {
    frame = await link.next();
  } catch (error) {
    if (link.channel.peerAbort?.mayRun !== false) throw error;
    return { word: 'refused', error: asVfioError(error, 'switch') };
  }
  if (frame.type === FrameType.RESUMED) {
    events.onResumed(resumeTimes(frame.payload));
    return { word: 'taken' };
  }
  if (frame.type === FrameType.SETTLE) return { word: 'settle' };
  throw unexpected(frame.type, 'RESUMED or SETTLE');
}

/** The machine runs there, whatever else is wrong with the word that says so. */
function resumeTimes(payload: Uint8Array): Times {
  try {
    return decodeTimes(payload);
  } catch {
    return {};
  }
}
