/** What a check finds in a page of a workload. */
export const PageFault = {
  /** As it should be. */
  NONE: 0,
  /** No header: the page was never written, or something else was. */
  BLANK: 1,
  /** The header of another page. */
  OTHER_PAGE: 2,
  /** The header of a run with another seed. */
  OTHER_RUN: 3,
  /** An older generation. */
  STALE: 4,
  /** A newer generation. */
  NEWER: 5,
  /** The right header over the wrong content. */
  BODY: 6,
} as const;

/** A value of {@link PageFault}. */
export type PageFault = (typeof PageFault)[keyof typeof PageFault];

/** In place of a page's index: there is none. */
export const NO_PAGE = 0xffff_ffff;
