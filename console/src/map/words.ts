/** What is written in the picture and changes with nearly every answer. */

/** A text of an element, or one of its attributes, that is written without drawing anything anew: give `ref` to the element. */
export class Words {
  private readonly attribute: string | undefined;
  private element: Element | null = null;
  private text = "";

  constructor(attribute?: string) {
    this.attribute = attribute;
  }

  readonly ref = (element: Element | null): void => {
    this.element = element;
    this.show();
  };

  write(text: string): void {
    if (text === this.text) return;
    this.text = text;
    this.show();
  }

  private show(): void {
    if (this.attribute !== undefined) this.element?.setAttribute(this.attribute, this.text);
    // The text that is there already is cheaper to change than to replace.
    else if (this.element?.firstChild) this.element.firstChild.nodeValue = this.text;
    else if (this.text && this.element) this.element.textContent = this.text;
  }
}

/** On an edge: its rate, and all of it for whom points at it. */
export class EdgeWords {
  readonly pace = new Words();
  readonly label = new Words();
}

/** On a node, and what a screen reader says of it. */
export class NodeWords {
  readonly pace = new Words();
  readonly waiting = new Words();
  readonly name = new Words("aria-label");
}

/** The words of each shape by its name. */
export class Book<W> {
  private readonly pages = new Map<string, W>();
  private readonly blank: new () => W;

  constructor(blank: new () => W) {
    this.blank = blank;
  }

  of(id: string): W {
    let page = this.pages.get(id);
    if (!page) this.pages.set(id, (page = new this.blank()));
    return page;
  }
}
