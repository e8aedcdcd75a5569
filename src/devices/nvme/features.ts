import { NvmeEvent } from './async-events.js';
import { NvmeStatus } from './status.js';

/** Feature identifiers (NVMe 1.4, section 5.21.1). */
export const NvmeFeature = {
  ARBITRATION: 0x01,
  POWER_MANAGEMENT: 0x02,
  TEMPERATURE_THRESHOLD: 0x04,
  ERROR_RECOVERY: 0x05,
  VOLATILE_WRITE_CACHE: 0x06,
  NUMBER_OF_QUEUES: 0x07,
  INTERRUPT_COALESCING: 0x08,
  INTERRUPT_VECTOR: 0x09,
  WRITE_ATOMICITY: 0x0a,
  ASYNC_EVENTS: 0x0b,
} as const;

/** Which value of a feature Get Features asks for (section 5.13.1). */
export const FeatureSelect = { CURRENT: 0, DEFAULT: 1, SAVED: 2, CAPABILITIES: 3 } as const;

/** The composite temperature, constant, in kelvin: 37 °C. */
export const COMPOSITE_TEMPERATURE = 310;
/** Above this the temperature is a warning (identify's WCTEMP), kelvin. */
export const WARNING_TEMPERATURE = 343;
/** Above this it is critical (identify's CCTEMP), kelvin. */
export const CRITICAL_TEMPERATURE = 353;
/** SMART's critical warning, bit 1: a temperature threshold was crossed. */
export const TEMPERATURE_WARNING = 0x2;

/** Bits of a value that the host may set; what it writes to others is not kept. */
const KEPT: Readonly<Record<number, number>> = {
  [NvmeFeature.ARBITRATION]: 0xffff_ff07,
  [NvmeFeature.POWER_MANAGEMENT]: 0xe0,
  [NvmeFeature.ERROR_RECOVERY]: 0xffff,
  [NvmeFeature.VOLATILE_WRITE_CACHE]: 0x1,
  [NvmeFeature.INTERRUPT_COALESCING]: 0xffff,
  [NvmeFeature.WRITE_ATOMICITY]: 0x1,
  [NvmeFeature.ASYNC_EVENTS]: 0x1f,
};

/** Arbitration burst that identify recommends: 2^n commands of a queue before the next one's turn. */
export const RECOMMENDED_BURST = 3;
/** The burst that means no limit. */
const UNLIMITED_BURST = 7;

const POWER_STATE = 0x1f;
const DEALLOCATED_ERROR_ENABLE = 0x1_0000;
const COALESCING_DISABLE = 0x1_0000;
const UNDER_THRESHOLD = 0x10_0000;
const THRESHOLD_SELECT = 0x30_0000;
const TEMPERATURE_SENSOR = 0xf_0000;
const ALL_SENSORS = 0xf_0000;
const CHANGEABLE = 0x4;

/** What Get Features answers. */
export interface FeatureAnswer {
  status: NvmeStatus;
  /** Dword 0 of the completion. */
  result: number;
}

/** What migrates of the features. */
export interface FeaturesState {
  /** Values of the features without parameters, in the order of {@link SCALAR_FEATURES}. */
  scalars: number[];
  overTemperature: number;
  underTemperature: number;
  /** Vectors whose coalescing the host has disabled. */
  uncoalesced: number[];
}

/** The features whose value is one number, in the order in which they migrate. */
export const SCALAR_FEATURES = [
  NvmeFeature.ARBITRATION,
  NvmeFeature.POWER_MANAGEMENT,
  NvmeFeature.ERROR_RECOVERY,
  NvmeFeature.VOLATILE_WRITE_CACHE,
  NvmeFeature.NUMBER_OF_QUEUES,
  NvmeFeature.INTERRUPT_COALESCING,
  NvmeFeature.WRITE_ATOMICITY,
  NvmeFeature.ASYNC_EVENTS,
] as const;

/**
 * The controller's features. None can be saved over a reset. Interrupt coalescing is kept and told, but interrupts come once per batch of
 * completions whatever it says: the specification calls its numbers recommendations.
 */
export class Features {
  readonly #queues: number;
  readonly #vectors: number;
  readonly #values = new Map<number, number>();
  readonly #uncoalesced = new Set<number>();
  #overTemperature = WARNING_TEMPERATURE;
  #underTemperature = 0;

  /** @param queues I/O queue pairs that the controller has @param vectors interrupt vectors that it has */
  constructor(queues: number, vectors: number) {
    this.#queues = queues;
    this.#vectors = vectors;
    this.reset();
  }

  /** As after a controller reset. */
  reset(): void {
    for (const feature of SCALAR_FEATURES) this.#values.set(feature, this.#initial(feature));
    this.#uncoalesced.clear();
    this.#overTemperature = WARNING_TEMPERATURE;
    this.#underTemperature = 0;
  }

  #initial(feature: number): number {
    switch (feature) {
      case NvmeFeature.ARBITRATION:
        return RECOMMENDED_BURST;
      case NvmeFeature.VOLATILE_WRITE_CACHE:
        return 1;
      case NvmeFeature.NUMBER_OF_QUEUES:
        return queuesValue(this.#queues, this.#queues);
      default:
        return 0;
    }
  }

  #value(feature: number): number {
    return this.#values.get(feature)!;
  }

  get isWriteCacheEnabled(): boolean {
    return this.#value(NvmeFeature.VOLATILE_WRITE_CACHE) === 1;
  }

  /** Most commands of one queue before the next one's turn. */
  get arbitrationBurst(): number {
    const exponent = this.#value(NvmeFeature.ARBITRATION) & 0x7;
    return exponent === UNLIMITED_BURST ? Number.POSITIVE_INFINITY : 2 ** exponent;
  }

  /** I/O submission queues that the host may create; their ids are 1 to this. */
  get submissionQueues(): number {
    return (this.#value(NvmeFeature.NUMBER_OF_QUEUES) & 0xffff) + 1;
  }

  /** I/O completion queues that the host may create. */
  get completionQueues(): number {
    return (this.#value(NvmeFeature.NUMBER_OF_QUEUES) >>> 16) + 1;
  }

  /** SMART's critical warning bits. */
  get criticalWarning(): number {
    const crossed = COMPOSITE_TEMPERATURE >= this.#overTemperature || COMPOSITE_TEMPERATURE <= this.#underTemperature;
    return crossed ? TEMPERATURE_WARNING : 0;
  }

  /** The event that a critical warning is, if the host wants to be told of it. */
  get dueWarning(): typeof NvmeEvent.TEMPERATURE_THRESHOLD | undefined {
    const wanted = this.criticalWarning & this.#value(NvmeFeature.ASYNC_EVENTS);
    return wanted === 0 ? undefined : NvmeEvent.TEMPERATURE_THRESHOLD;
  }

  /** Get Features (section 5.13): `parameter` is dword 11. */
  get(feature: number, select: number, parameter: number): FeatureAnswer {
    if (select > FeatureSelect.CAPABILITIES) return failed(NvmeStatus.INVALID_FIELD);
    if (select === FeatureSelect.CAPABILITIES) {
      const known = this.#read(feature, 0, false);
      return known.status === NvmeStatus.SUCCESS ? succeeded(CHANGEABLE) : known;
    }
    return this.#read(feature, parameter, select === FeatureSelect.CURRENT);
  }

  #read(feature: number, parameter: number, isCurrent: boolean): FeatureAnswer {
    if (feature === NvmeFeature.TEMPERATURE_THRESHOLD) return this.#readTemperature(parameter, isCurrent);
    if (feature === NvmeFeature.INTERRUPT_VECTOR) return this.#readVector(parameter, isCurrent);
    if (!this.#values.has(feature)) return failed(NvmeStatus.INVALID_FIELD);
    return succeeded(isCurrent ? this.#value(feature) : this.#initial(feature));
  }

  #readTemperature(parameter: number, isCurrent: boolean): FeatureAnswer {
    const select = parameter & THRESHOLD_SELECT;
    if ((parameter & TEMPERATURE_SENSOR) !== 0 || select > UNDER_THRESHOLD) return failed(NvmeStatus.INVALID_FIELD);
    if (select === UNDER_THRESHOLD) return succeeded(isCurrent ? this.#underTemperature : 0);
    return succeeded(isCurrent ? this.#overTemperature : WARNING_TEMPERATURE);
  }

  #readVector(parameter: number, isCurrent: boolean): FeatureAnswer {
    const vector = parameter & 0xffff;
    if (vector >= this.#vectors) return failed(NvmeStatus.INVALID_FIELD);
    return succeeded(isCurrent && this.#uncoalesced.has(vector) ? vector | COALESCING_DISABLE : vector);
  }

  /** Set Features (section 5.21): `value` is dword 11. The result is dword 0 of the completion. */
  set(feature: number, value: number): FeatureAnswer {
    switch (feature) {
      case NvmeFeature.TEMPERATURE_THRESHOLD:
        return this.#setTemperature(value);
      case NvmeFeature.INTERRUPT_VECTOR:
        return this.#setVector(value);
      case NvmeFeature.NUMBER_OF_QUEUES:
        return this.#setQueues(value);
      case NvmeFeature.POWER_MANAGEMENT:
        // There is one power state.
        return (value & POWER_STATE) === 0 ? this.#keep(feature, value) : failed(NvmeStatus.INVALID_FIELD);
      case NvmeFeature.ERROR_RECOVERY:
        return (value & DEALLOCATED_ERROR_ENABLE) === 0 ? this.#keep(feature, value) : failed(NvmeStatus.INVALID_FIELD);
      default:
        return this.#values.has(feature) ? this.#keep(feature, value) : failed(NvmeStatus.INVALID_FIELD);
    }
  }

  #keep(feature: number, value: number): FeatureAnswer {
    this.#values.set(feature, (value & KEPT[feature]!) >>> 0);
    return succeeded(0);
  }

  #setTemperature(value: number): FeatureAnswer {
    const sensor = value & TEMPERATURE_SENSOR;
    const select = value & THRESHOLD_SELECT;
    if ((sensor !== 0 && sensor !== ALL_SENSORS) || select > UNDER_THRESHOLD) return failed(NvmeStatus.INVALID_FIELD);
    if (select === UNDER_THRESHOLD) this.#underTemperature = value & 0xffff;
    else this.#overTemperature = value & 0xffff;
    return succeeded(0);
  }

  #setVector(value: number): FeatureAnswer {
    const vector = value & 0xffff;
    if (vector >= this.#vectors) return failed(NvmeStatus.INVALID_FIELD);
    if ((value & COALESCING_DISABLE) === 0) this.#uncoalesced.delete(vector);
    else this.#uncoalesced.add(vector);
    return succeeded(0);
  }

  /** The host asks for a number of queues, less one, and is told how many it gets: at most what there are. */
  #setQueues(value: number): FeatureAnswer {
    const submission = value & 0xffff;
    const completion = value >>> 16;
    if (submission === 0xffff || completion === 0xffff) return failed(NvmeStatus.INVALID_FIELD);
    const granted = queuesValue(Math.min(submission + 1, this.#queues), Math.min(completion + 1, this.#queues));
    this.#values.set(NvmeFeature.NUMBER_OF_QUEUES, granted);
    return succeeded(granted);
  }

  save(): FeaturesState {
    return {
      scalars: SCALAR_FEATURES.map(feature => this.#value(feature)),
      overTemperature: this.#overTemperature,
      underTemperature: this.#underTemperature,
      uncoalesced: [...this.#uncoalesced],
    };
  }

  /** Whether a state is one that these features can have. */
  accepts({ scalars, overTemperature, underTemperature, uncoalesced }: FeaturesState): boolean {
    const areScalarsRight = SCALAR_FEATURES.every((feature, index) => this.#acceptsScalar(feature, scalars[index]!));
    return (
      scalars.length === SCALAR_FEATURES.length &&
      areScalarsRight &&
      overTemperature <= 0xffff &&
      underTemperature <= 0xffff &&
      uncoalesced.every(vector => vector < this.#vectors)
    );
  }

  #acceptsScalar(feature: number, value: number): boolean {
    if (feature !== NvmeFeature.NUMBER_OF_QUEUES) return (value & ~KEPT[feature]!) === 0;
    return (value & 0xffff) < this.#queues && value >>> 16 < this.#queues;
  }

  /** Takes what {@link Features.save} gave and {@link Features.accepts}. */
  load(state: FeaturesState): void {
    for (const [index, feature] of SCALAR_FEATURES.entries()) this.#values.set(feature, state.scalars[index]!);
    this.#overTemperature = state.overTemperature;
    this.#underTemperature = state.underTemperature;
    this.#uncoalesced.clear();
    for (const vector of state.uncoalesced) this.#uncoalesced.add(vector);
  }
}

function queuesValue(submission: number, completion: number): number {
  return ((completion - 1) << 16) | (submission - 1);
}

function succeeded(result: number): FeatureAnswer {
  return { status: NvmeStatus.SUCCESS, result };
}

function failed(status: NvmeStatus): FeatureAnswer {
  return { status, result: 0 };
}
