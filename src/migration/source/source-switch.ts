import { asVfioError } from '../../uapi/index.js';
import { encodeRecord, type OfferLink, type TakerWord } from '../ownership/index.js';
import { unexpected } from '../stream/frame-channel.js';
import type { Frame } from '../stream/frame-parser.js';
import { FrameType } from '../stream/stream-format.js';
import type { SourceLink } from './source-link.js';

/** The words of the switch as frames. @param onOffered called when the offer is on its way, and cannot be taken back */
export function offerLinkOver(link: SourceLink, onOffered: () => void): OfferLink {
  return {
    async offer() {
      // A send that throws has written nothing. One that does not may arrive or not.
      await link.channel.sendDecisive(FrameType.GO);
      onOffered();
    },
    next: () => nextWord(link),
    confirm: record => link.channel.send(FrameType.OWNER, new TextEncoder().encode(encodeRecord(record))),
  };
}

async function nextWord(link: SourceLink): Promise<TakerWord> {
  let frame: Frame;
  try {
    frame = await link.next();
  } catch (error) {
    if (link.channel.peerAbort?.mayRun !== false) throw error;
    return { word: 'refused', error: asVfioError(error, 'switch') };
  }
  if (frame.type === FrameType.RESUMED) return { word: 'taken' };
  if (frame.type === FrameType.SETTLE) return { word: 'settle' };
  throw unexpected(frame.type, 'RESUMED or SETTLE');
}
